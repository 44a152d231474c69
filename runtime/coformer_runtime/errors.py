"""The one error type of the toolchain: what failed, where, and how to mend it.

Every layer (runtime, targets, passes, compiler) raises it for what a user can cause, so that the command
line, the logs and the tests treat all of them alike. Python 3.6.
"""


class CoformerError(Exception):
    """A failure that the user can understand and mend.

    Args:
        what: what failed, with the figures ("1,204 MB needed, 900 MB there").
        where: stage, pass, node, target, file or device.
        mend: what to do about it, as an imperative.
    """

    exit_code = 2

    def __init__(self, what, where, mend):
        # type: (str, str, str) -> None
        super(CoformerError, self).__init__(what, where, mend)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self):
        # type: () -> str
        return "{}: {}; {}".format(self.where, self.what, self.mend)


class CheckFailed(CoformerError):
    """A check of something that we built did not hold (exit code 1), as opposed to a mistake in the input."""

    exit_code = 1
