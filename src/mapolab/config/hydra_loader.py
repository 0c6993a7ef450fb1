"""Hydra's loader of configs, with a look at what it reads and at what comes of it.

Everything that Hydra composes passes here, before it acts on it: for a run, a sweep and each of its jobs, `--cfg`,
`--info`, `--help` and completion.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.base import Container
from omegaconf.errors import OmegaConfBaseException

from mapolab.config.hydra_keys import check_hydra
from mapolab.errors import UserError
from mapolab.paths import conf_folder
from mapolab.reading import check_yaml

MOST_INTERPOLATIONS = 1_000  # that one config resolves; those of conf/ are below fifty


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs, which raises UserError for a block `hydra` that mapolab does not mean to allow, and
    ConfigCompositionException for every file and override that cannot be composed."""

    def __init__(self, config_search_path: ConfigSearchPath):
        super().__init__(config_search_path)
        self.repository = _Files(config_search_path)
        self.refused: UserError | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        if self.refused is not None:  # Hydra goes on after the first of its compositions has failed
            raise self.refused
        _Interpolations.done = 0
        try:
            config = super().load_configuration(
                config_name or self._command(), overrides, run_mode, from_shell, validate_sweep_overrides
            )
            check_hydra(config, overrides, run_mode)
        except UserError as error:
            self.refused = error
            raise
        except (HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # what else a file or an override can bring about in Hydra and its parsers
            raise ConfigCompositionException(f"{type(error).__name__}: {error}") from error
        return config

    def _command(self) -> str | None:
        """For --hydra-help, which would compose Hydra's own config, with its own logging to files."""
        return "train" if self.repository.config_exists("train") else None

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: list[Override], repo: Any) -> None:
        given = [item.value() for item in parsed_overrides if item.get_key_element().lstrip("+~") == "hydra.searchpath"]
        for entry in (entry for value in given if isinstance(value, list) for entry in value):
            if not isinstance(entry, str) or ("://" in entry and not entry.startswith("file://")):
                raise UserError(f"hydra.searchpath names {entry}. Give folders: any other source would be imported.")
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


class _Files(ConfigRepository):
    """Reads the files of a search path; those that are not mapolab's own are looked over first."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file" or Path(source.path) == conf_folder():
            return super().load_config(config_path)
        name = config_path if config_path.endswith((".yaml", ".yml")) else f"{config_path}.yaml"
        file = Path(source.path, name.lstrip("/"))
        if ".." in file.relative_to(source.path).parts:
            raise ConfigCompositionException(f"{config_path} lies outside of the config folder {source.path}")
        try:
            check_yaml(file)
            return super().load_config(config_path)
        except HydraException:
            raise
        except Exception as error:
            raise ConfigCompositionException(f"{file} cannot be read: {type(error).__name__}: {error}") from error


class _Interpolations:
    """Counts what OmegaConf resolves, so that a config of a few lines cannot ask for billions of values."""

    done = 0

    @classmethod
    @contextlib.contextmanager
    def bounded(cls) -> Iterator[None]:
        names = ("_resolve_node_interpolation", "_evaluate_custom_resolver")
        before = {name: getattr(Container, name) for name in names}

        def counted(resolve: Any) -> Any:
            def count(*arguments: Any, **keywords: Any) -> Any:
                cls.done += 1
                if cls.done > MOST_INTERPOLATIONS:
                    raise OmegaConfBaseException(f"it resolves more than {MOST_INTERPOLATIONS} interpolations")
                return resolve(*arguments, **keywords)

            return count

        for name, resolve in before.items():
            setattr(Container, name, counted(resolve))
        try:
            yield
        finally:
            for name, resolve in before.items():
                setattr(Container, name, resolve)


@contextlib.contextmanager
def checked_hydra() -> Iterator[None]:
    """Within the block Hydra composes through `CheckedLoader`."""
    from hydra._internal import hydra

    # Hydra has no other place to give it a loader, hence hydra-core < 1.4 in pyproject.toml.
    before = hydra.ConfigLoaderImpl
    hydra.ConfigLoaderImpl = CheckedLoader
    try:
        with _Interpolations.bounded():
            yield
    finally:
        hydra.ConfigLoaderImpl = before
