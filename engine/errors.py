"""What can go wrong for a user, as one tree.

GlassError
├── UsageError          the command or call itself cannot work: options, output folder
├── BundleError         a bundle is missing, altered or malformed, or cannot be made
├── SlideError          a slide is missing, broken, or lacks what scoring needs
├── BackendUnavailable  a runtime or device that was asked for is not there
├── OutputError         results cannot be written: full disk, no permission
│   └── FolderTaken     what stands where one slide's results go must not be replaced
├── DatasetError        a data set is not laid out as published
└── TrainingError       a training run cannot start or go on
"""

LONGEST_LINE = 500  # characters that are repeated of what a library says


class GlassError(Exception):
    """Base of every error that is the user's to mend; its message says what, where and what to do."""


class UsageError(GlassError):
    """The command or call itself cannot work."""


class BundleError(GlassError):
    """A bundle is missing, altered or malformed, or cannot be made."""


class SlideError(GlassError):
    """A slide is missing, broken, or lacks what scoring needs."""


class BackendUnavailable(GlassError):
    """A runtime or device that was asked for is not there."""


class OutputError(GlassError):
    """Results cannot be written."""


class FolderTaken(OutputError):
    """What stands where the results of one slide, or a bundle, would go is not theirs to replace."""


class DatasetError(GlassError):
    """A data set is not laid out as published."""


class TrainingError(GlassError):
    """A training run cannot start or go on."""


def first_line(error: BaseException) -> str:
    """What an exception says, without the pages some libraries add; its name where it says nothing.

    What cannot be printed, as in names that a damaged file holds, becomes a question mark.
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return "".join(each if each.isprintable() else "?" for each in line[:LONGEST_LINE])
