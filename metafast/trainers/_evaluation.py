"""The options of judging a policy by fresh episodes, and the words for what came out."""

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `metafast evaluate`: what `evaluate` takes beside the directory."""
    parser.add_argument("--episodes", type=int, default=100, help="episodes, one environment each (default 100)")
    parser.add_argument("--backend", choices=("native", "gymnasium"), help="default: the one trained with")
    parser.add_argument("--greedy", action="store_true", help="take the most probable action instead of sampling")
    parser.add_argument("--seed", type=int, default=0, help="of environments and sampling (default 0)")


def describe(result: dict[str, Any]) -> str:
    """Say in words what `evaluate` returned."""
    return (
        f"{result['env_id']} ({result['backend']}), {result['episodes']} episodes: "
        f"mean return {result['mean_return']:.2f}, standard deviation {result['std_return']:.2f}, "
        f"from {result['min_return']:.1f} to {result['max_return']:.1f}"
    )
