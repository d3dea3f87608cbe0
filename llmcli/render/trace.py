"""What the filters did at one step, as lines of plain text."""

from typing import Any

from llmcli.render.funnel import stage_name
from llmcli.render.parts import percent


def trace_lines(index: int, trace: dict[str, Any], label: str) -> list[str]:
    """From the `stages`, `drawn` and `uniform` of a step, and how the token drawn is shown."""
    stages = trace["stages"]
    names = [stage_name(each) for each in stages]
    width = max(map(len, names))
    lines = [f"step {index}"]
    for name, stage in zip(names, stages, strict=True):
        left = f"{stage['candidates']} candidates, mass {percent(stage['mass'])}"
        lines.append(f"  {name:<{width}}  {left}")
    how = "greedy" if trace["uniform"] is None else f"by the random number {trace['uniform']:.6f}"
    drawn = trace["drawn"]
    lines.append(f"  drawn: {label} (id {drawn['id']}), probability {percent(drawn['prob'])}, {how}")
    return lines
