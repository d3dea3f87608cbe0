"""JSON schemas of what commands print with --json, --jsonl and --events, of records and of training logs."""
