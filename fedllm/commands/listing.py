"""``fedllm list``: everything that can be chosen by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedllm.commands.tables import print_json


def register(app: typer.Typer) -> None:
    """Adds this file's command to ``app``."""
    app.command("list")(list_plugins)


def list_plugins(
    point: Annotated[str, typer.Argument(help="A point, e.g. `rule`; all without it.")] = "",
    name: Annotated[str, typer.Argument(help="One plug-in: its settings and traits.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Name recipes, rules, weights and all other plug-ins; describe one.

    fedllm list rule lora-fair
    """
    from fedllm.catalogue import POINTS
    from fedllm.errors import ConfigError

    if point and point not in POINTS:
        raise ConfigError(f"there is no point {point!r}; choose one of {', '.join(POINTS)}")
    if name and name not in POINTS[point]:
        raise ConfigError(f"{point} {name!r} is unknown; choose one of {', '.join(POINTS[point])}")
    points = [point] if point else list(POINTS)
    names = {key: [name] if name else list(POINTS[key]) for key in points}
    if json:
        print_json({key: {one: _described(key, one) for one in names[key]} for key in points})
    elif name:
        _show(point, name)
    elif point:
        for one in names[point]:
            found = _described(point, one)
            typer.echo(
                f"{one:<20} {found.get('error') or found['title'] + ': ' + found['summary']}"
            )
    else:
        for title, words in {**_others(), **names}.items():
            typer.echo(f"{title:<20} {'  '.join(words)}")


def _described(point: str, name: str) -> dict[str, Any]:
    """Everything about one plug-in; of one that cannot be used, why."""
    from fedllm.catalogue import POINTS, described
    from fedllm.errors import ConfigError
    from fedllm.traits import TRAITS

    try:
        entry = POINTS[point][name]
    except ConfigError as error:
        return {"error": str(error)}
    return {
        "title": entry.title,
        "summary": entry.summary,
        "paper": entry.paper,
        "module": entry.module,
        "settings": described(entry.settings),
        "traits": {trait: TRAITS[trait] for trait in sorted(entry.traits)},
    }


def _show(point: str, name: str) -> None:
    found = _described(point, name)
    if "error" in found:
        typer.echo(found["error"])
        return
    typer.echo(f"{found['title']}: {found['summary']}")
    typer.echo("  ".join(part for part in (found["paper"], found["module"]) if part))
    for setting in found["settings"]:
        typer.echo(f"\n  {setting['name']} = {setting['default']}    ({setting['type']})")
        if setting["doc"]:
            typer.echo(f"      {setting['doc']}")
    typer.echo("")
    for trait, said in found["traits"].items():
        typer.echo(f"  {trait}: {said}")


def _others() -> dict[str, list[str]]:
    """What is chosen by name and is no plug-in."""
    from fedllm.recipe import shipped_recipes

    return {"recipes": sorted(shipped_recipes())}
