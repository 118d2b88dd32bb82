"""PufferLib's C CartPole, built from its own sources.

Its source distribution fetches a drawing library over the network while it installs, and often cannot. So unpack
pufferlib-3.0.0.tar.gz, name the folder in METAFAST_PUFFERLIB, and this module compiles the one binding, with headers
that draw nothing. Its rules differ (float32, at most 200 steps, the global ``rand``), its interface checks nothing.
"""

import functools
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

_NO_DRAWING = """
#pragma once
typedef struct { unsigned char r, g, b, a; } Color;
typedef struct { float x, y; } Vector2;
enum { KEY_ESCAPE, KEY_TAB };
static inline int IsKeyDown(int key) { return 0; }
static inline int IsKeyPressed(int key) { return 0; }
static inline void ToggleFullscreen(void) {}
static inline void InitWindow(int width, int height, const char* title) {}
static inline void CloseWindow(void) {}
static inline void SetTargetFPS(int fps) {}
static inline void BeginDrawing(void) {}
static inline void EndDrawing(void) {}
static inline void ClearBackground(Color color) {}
static inline void DrawLine(int x1, int y1, int x2, int y2, Color color) {}
static inline void DrawLineEx(Vector2 start, Vector2 end, float thickness, Color color) {}
static inline void DrawRectangle(int x, int y, int width, int height, Color color) {}
static inline void DrawText(const char* text, int x, int y, int size, Color color) {}
static inline const char* TextFormat(const char* text, ...) { return text; }
"""


@functools.cache
def _binding() -> ModuleType:
    unpacked = os.environ.get("METAFAST_PUFFERLIB")
    if unpacked is None:
        pytest.skip("METAFAST_PUFFERLIB does not name a folder with PufferLib's sources")
    folder = Path(tempfile.mkdtemp(prefix="metafast-pufferlib-"))
    (folder / "raylib.h").write_text(_NO_DRAWING)
    library = folder / f"binding{sysconfig.get_config_var('EXT_SUFFIX')}"
    source = Path(unpacked) / "pufferlib" / "ocean" / "cartpole" / "binding.c"
    includes = [f"-I{include}" for include in (folder, sysconfig.get_path("include"), np.get_include())]
    flags = ["-O3", "-march=native", "-w", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, *includes, str(source), "-lm", "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("binding", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PufferLibCartPole:
    """As PufferLib's own wrapper steps it: the actions are copied to a buffer, the results lie in others."""

    def __init__(self, num_envs: int) -> None:
        self._binding = _binding()
        self.observations = np.zeros((num_envs, 4), dtype=np.float32)
        self.actions = np.zeros(num_envs, dtype=np.float32)
        self.rewards = np.zeros(num_envs, dtype=np.float32)
        self.terminals, self.truncations = np.zeros((2, num_envs), dtype=np.bool_)
        self._envs = self._binding.vec_init(
            self.observations, self.actions, self.rewards, self.terminals, self.truncations, num_envs, 0, continuous=0
        )

    def reset(self, seed: int = 0) -> tuple[np.ndarray, dict[str, object]]:
        self._binding.vec_reset(self._envs, seed)
        return self.observations, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, object]]:
        self.actions[:] = actions
        self._binding.vec_step(self._envs)
        return self.observations, self.rewards, self.terminals, self.truncations, {}

    def close(self) -> None:
        self._binding.vec_close(self._envs)
