"""From what the user calls an app (`shop:app`, `path/shop.py:app`) to the app."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tomllib
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evenflow.cli.failures import BrokenApp, Missing, UsageError, is_users, relative
from evenflow.errors import DefinitionError, SettingsError
from evenflow.settings_sources import suggestion

if TYPE_CHECKING:
    from evenflow.app import App

_HOW = 'name it, as shop:app or path/shop.py:app; or set app = "shop:app" in [tool.evenflow] of pyproject.toml'


def load_app(named: str | None) -> App:
    """The app of this name, or the one that the environment or pyproject.toml names."""
    where, base = app_name(named)
    module, _, attribute = where.rpartition(":")
    if not module or not attribute:
        raise UsageError(f"{where!r} is no name of an app", remedy=_whole(where, base) or _HOW)
    for folder in (base, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    file = base / module
    found = _from_file(file) if module.endswith(".py") or os.sep in module else _from_name(module, base)
    return _attribute(found, attribute, where)


def _whole(where: str, base: Path) -> str:
    """What a module or file was meant as, if there is one of this name; nothing is imported."""
    name = where.removesuffix(".py").rstrip(":")
    return f"did you mean {where.rstrip(':')}:app?" if name and (base / f"{name}.py").is_file() else ""


def app_name(named: str | None) -> tuple[str, Path]:
    """What the app is called, and the folder that this is meant from. Raises `UsageError` where none is named."""
    return (named, Path.cwd()) if named else _configured()


def _configured() -> tuple[str, Path]:
    from_environment = os.environ.get("EVENFLOW_APP")
    if from_environment:
        return from_environment, Path.cwd()
    for folder in (Path.cwd(), *Path.cwd().parents):
        file = folder / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            table = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("evenflow", {})
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be read: {error}", remedy="mend the file") from error
        named = table.get("app") if isinstance(table, dict) else None
        if isinstance(named, str):
            return named, folder
        if table:
            break
    raise UsageError("no app is named", remedy=_HOW)


def _from_name(name: str, base: Path) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is no name of a module", remedy=_HOW)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _broken(name, error) from error
        near = sorted({*(f.stem for f in base.glob("*.py")), *(f.parent.name for f in base.glob("*/__init__.py"))})
        hint = suggestion(name, near) or "it is looked for in the working directory and in the installed packages"
        raise Missing(f"there is no module {name!r} in {base}", remedy=hint) from None
    except Exception as error:
        raise _broken(name, error) from error


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        near = [str(each) for each in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise Missing(f"there is no file {relative(str(file))}", remedy=suggestion(str(file), near) or _HOW)
    folder, name = file.parent, file.stem
    while (folder / "__init__.py").exists():
        folder, name = folder.parent, f"{folder.name}.{name}"
    sys.path.insert(0, str(folder))
    known = sys.modules.get(name)
    if "." in name or (known is not None and known.__file__ == str(file)):
        return _from_name(name, folder)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # types of its annotations are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _broken(relative(str(file)), error) from error
    return module


def _broken(name: str, error: Exception) -> Exception:
    if isinstance(error, DefinitionError):
        return error if error.where else _placed(error)
    if isinstance(error, SettingsError):
        return error
    return BrokenApp(f"{name} cannot be imported")


def _placed(error: DefinitionError) -> DefinitionError:
    """The error with the line of the user's module that it came from."""
    lines = [each for each in traceback.extract_tb(error.__traceback__) if is_users(each.filename)]
    if not lines:
        return error
    found = DefinitionError(error.plain, where=f"{lines[-1].filename}:{lines[-1].lineno}", remedy=error.remedy)
    found.also = error.also
    return found


def _attribute(module: ModuleType, path: str, where: str) -> App:
    from evenflow.app import App

    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            apps = sorted(name for name, value in vars(module).items() if isinstance(value, App))
            hint = f"did you mean {where.rpartition(':')[0]}:{apps[0]}?" if apps else "it holds no App"
            raise Missing(f"{module.__name__} has no {part!r}", remedy=hint)
        found = getattr(found, part)
    if not isinstance(found, App):
        kind = type(found).__name__
        raise UsageError(f"{where} is of type {kind}, not an App", remedy="name what App(...) has made")
    return found
