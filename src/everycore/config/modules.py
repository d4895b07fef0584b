"""The kind of a setting that names modules."""

from everycore.config.kinds import Text
from everycore.errors import ConfigurationError
from everycore.settings import names_to_preload


class ModuleName(Text):
    """A module, or a function in one, as `Settings.preload` takes it; or several, separated by commas."""

    has_commas = True

    def from_text(self, text: str) -> str:
        """As `Kind.from_text`."""
        try:
            names_to_preload(text)
        except ConfigurationError as error:
            raise ValueError(error.problem) from None
        return text
