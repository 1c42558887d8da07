"""Lets every tox environment live in one folder, so that torch (gigabytes) is installed once.

tox 4 makes an environment anew when the name last used in its folder differs. All of ours install the same packages, so
the name says nothing; packages, extras and interpreter are still compared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tox.plugin import impl
from tox.tox_env.info import Info
from tox.tox_env.python.virtual_env.runner import VirtualEnvRunner
from tox.tox_env.register import ToxEnvRegister


class NamelessInfo(Info):
    """What tox remembers of an environment, with the same name for all."""

    @contextmanager
    def compare(self, value: Any, section: str, sub_section: str | None = None) -> Iterator[tuple[bool, Any]]:
        """As tox's own comparison, with a name that never differs."""
        if section == "ToxEnv":
            value = {**value, "name": "shared"}
        with super().compare(value, section, sub_section) as answer:
            yield answer


class SharedRunner(VirtualEnvRunner):
    """tox's own runner, in a folder that several environments share."""

    @staticmethod
    def id() -> str:
        """The name of this runner in tox.ini."""
        return "shared"

    @property
    def cache(self) -> Info:
        """What tox remembers of the environment in this folder."""
        return NamelessInfo(self.env_dir)


@impl
def tox_register_tox_env(register: ToxEnvRegister) -> None:
    """Makes `runner = shared` known to tox."""
    register.add_run_env(SharedRunner)
