"""What `llmcli bench` measured, as lines of text."""

from typing import Any


def bench_lines(data: dict[str, Any]) -> str:
    """The report; `data` as `--json` gives it."""
    lines = [
        f"{data['model']}, {data['dtype']}, {data['threads']} threads, median of {data['rounds']} rounds",
        "",
        f"memory       {data['bandwidth'] / 1e9:7.1f} GB/s read",
        f"weights      {data['weight_bytes'] / 1e6:7.1f} MB, read once a token",
        f"peak memory  {data['peak_bytes'] / 1e6:7.1f} MB of this process, PyTorch included",
        "",
        f"{'prefill':>12} {'tokens/s':>9} {'ms':>8}",
    ]
    lines += [
        f"{each['tokens']:>12} {each['tokens_per_second']:>9.1f} {each['seconds'] * 1e3:>8.1f}"
        for each in data["prefill"]
    ]
    lines += ["", f"{'decode after':>12} {'tokens/s':>9} {'ms':>8}  of the memory's speed"]
    lines += [
        f"{each['context']:>12} {each['tokens_per_second']:>9.1f} {each['seconds'] * 1e3:>8.2f}  {each['share']:>6.0%}"
        for each in data["decode"]
    ]
    if data["cold"] is not None:
        cold = data["cold"]
        lines += ["", f"a new process to its first token: {cold['first_token']:.2f} s; "]
        lines[-1] += f"`import torch` alone: {cold['import_torch']:.2f} s"
    return "\n".join(lines) + "\n"
