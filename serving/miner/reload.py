"""Keys and settings that change while the miner runs: on SIGHUP, and whenever their files change."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from serving.logs import event
from serving.miner.files import Stamp, stamp
from serving.miner.keys import Hotkey, read_hotkey, refuse_coldkeys
from serving.miner.settings import Settings
from streetvision.errors import SettingsError
from streetvision.subnet.wallet import hotkey_file

logger = logging.getLogger(__name__)

_WATCH_S = 2.0


class Reloader:
    """Reads settings and the hotkey anew, and applies what may change; what is unusable leaves all as it was.

    Args:
        environment: where the settings came from.
        settings: what is in force.
        hotkey: the key in force.
        apply: puts settings and a key in force.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        settings: Settings,
        hotkey: Hotkey,
        apply: Callable[[Settings, Hotkey], None],
    ) -> None:
        self._environment = environment
        self._settings = settings
        self._hotkey = hotkey
        self._apply = apply
        self._asked = asyncio.Event()
        self._stamps = self._stamp()

    def ask(self) -> None:
        """Has everything read again, as SIGHUP does."""
        self._asked.set()

    async def run(self) -> None:
        """Waits for a request or a change, forever."""
        while True:
            try:
                async with asyncio.timeout(_WATCH_S):
                    await self._asked.wait()
            except TimeoutError:
                if self._stamp() == self._stamps:
                    continue
            self._asked.clear()
            self._stamps = self._stamp()  # before it is read: what changes meanwhile is read again
            try:
                await self.reload()
            except Exception:  # a miner that serves goes on
                logger.exception("unforeseen error while reloading")

    async def reload(self) -> None:
        """Reads everything again, beside the answers, and applies what may change."""
        try:
            settings = await asyncio.to_thread(Settings.from_environment, self._environment)
            hotkey = await asyncio.to_thread(own_hotkey, settings, self._environment)
        except (SettingsError, OSError) as err:
            event(logger, "reload_refused", level=logging.ERROR, reason=str(err))
            return
        applied, waiting = self._settings.reloaded(settings)
        self._settings = self._settings.model_copy(update={name: getattr(settings, name) for name in applied})
        if hotkey != self._hotkey:
            applied.add("hotkey")
            self._hotkey = hotkey
        self._apply(self._settings, hotkey)
        event(logger, "reloaded", changed=sorted(applied), needs_restart=sorted(waiting), hotkey=hotkey.address)

    def _stamp(self) -> list[Stamp | None]:
        settings = self._settings
        key = hotkey_file(settings.wallet_path, settings.wallet_name, settings.hotkey_name)
        return [stamp(file) for file in (key, settings.settings_file) if file is not None]


def own_hotkey(settings: Settings, environment: Mapping[str, str]) -> Hotkey:
    """The hotkey that the settings name, where nothing more precious is in reach.

    Raises:
        SettingsError: there is none, a coldkey or a mnemonic is in reach, or a path to be searched does not exist.
    """
    hotkey = read_hotkey(settings.wallet_path, settings.wallet_name, settings.hotkey_name)
    refuse_coldkeys(
        [settings.wallet_path, *settings.guarded_paths], environment, passed_over=settings.written_for_callers
    )
    return hotkey
