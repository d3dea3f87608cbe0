"""Every error that llmcli raises on purpose, and the exit code each one ends with.

    LlmcliError              1   something failed at run time
    ├── UsageError           2   the request itself is wrong: options, input text, ids
    ├── ModelError           3   a model cannot be found, read or trusted
    │   ├── ModelNotFoundError
    │   ├── HubError             the hub answered no, or not at all
    │   ├── ConfigError          config.json
    │   ├── TokenizerError       tokenizer.json and its older forms
    │   └── CheckpointError      safetensors files and their index
    ├── ContextLengthError   4   the prompt does not fit the context
    └── CheckFailedError     5   a check that the user asked for failed

Exit 0 is success, also when the reader of a pipe went away; 129, 130 and 143 are SIGHUP, SIGINT and SIGTERM.
"""

EXIT_OK = 0
EXIT_HANGUP = 129
EXIT_INTERRUPT = 130
EXIT_TERMINATED = 143


class LlmcliError(Exception):
    """A failure with one line saying what is wrong and one saying what to do."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(LlmcliError):
    exit_code = 2


class ModelError(LlmcliError):
    exit_code = 3


class ModelNotFoundError(ModelError):
    pass


class HubError(ModelError):
    pass


class ConfigError(ModelError):
    pass


class TokenizerError(ModelError):
    pass


class CheckpointError(ModelError):
    pass


class ContextLengthError(LlmcliError):
    exit_code = 4


class CheckFailedError(LlmcliError):
    exit_code = 5
