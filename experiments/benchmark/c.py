"""The reference of `experiments.benchmark` in C: it shows the speed that the hardware allows.

Threefry counters, Box-Muller and the sums are one loop over lanes, which the compiler vectorises. Each lane is a
replicate, so no sum crosses the lanes of a vector.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

COMMAND = ("-O3", "-march=native", "-ffast-math", "-pthread", "-shared", "-fPIC")

# Threefry-2x32, 20 rounds: Salmon, Moraes, Dror and Shaw 2011. The polynomials of log, sin and cos: Moshier's Cephes
# (logf, sinf, cosf). `u` is never 0, and 1 only by rounding. Its smallest value gives |e| = 6.7.
SOURCE = r"""
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define LANES 64
#define TURN(k) x += y; y = (y << k | y >> (32 - k)) ^ x;
#define FOUR(a, b, c, d) TURN(a) TURN(b) TURN(c) TURN(d)

typedef struct { uint32_t key[2]; uint64_t n, first, end; double theta, sums[4]; } Part;

static void *run(void *argument) {
    Part *w = argument;
    const uint32_t k0 = w->key[0], k1 = w->key[1], k2 = k0 ^ k1 ^ 0x1BD11BDA;
    const float theta = (float)w->theta;
    for (uint64_t r = w->first; r < w->end; r += LANES) {
        float score[LANES] = {0}, path[LANES] = {0};
        for (uint32_t i = 0; i < w->n; i += 2)
            for (int l = 0; l < LANES; l++) {
                uint32_t x = i / 2 + k0, y = (uint32_t)r + l + k1;
                FOUR(13, 15, 26, 6)  x += k1; y += k2 + 1;
                FOUR(17, 29, 16, 24) x += k2; y += k0 + 2;
                FOUR(13, 15, 26, 6)  x += k0; y += k1 + 3;
                FOUR(17, 29, 16, 24) x += k1; y += k2 + 4;
                FOUR(13, 15, 26, 6)  x += k2; y += k0 + 5;

                union { float f; int32_t i; } m = {((float)x + 0.5f) * 0x1p-32f};
                int32_t exponent = (m.i - 0x3f3504f3) >> 23;  /* m in [sqrt(1/2), sqrt(2)) */
                m.i -= exponent * (1 << 23);
                float t = m.f - 1, t2 = t * t, p = 7.0376836292e-2f;
                p = p * t - 1.1514610310e-1f; p = p * t + 1.1676998740e-1f; p = p * t - 1.2420140846e-1f;
                p = p * t + 1.4249322787e-1f; p = p * t - 1.6668057665e-1f; p = p * t + 2.0000714765e-1f;
                p = p * t - 2.4999993993e-1f; p = p * t + 3.3333331174e-1f;
                float log_u = t + (p * t * t2 - 0.5f * t2) + (float)exponent * 0.69314718f;
                float radius = sqrtf(fmaxf(-2 * log_u, 0.0f));

                /* the upper two bits of y are the quarter turn, the others the angle a in [-pi/4, pi/4) */
                float a = (float)(int32_t)(y << 2) * (float)(1.5707963267948966 * 0x1p-32), a2 = a * a;
                uint32_t quarter = y >> 30;
                float s = a + a * a2 * (-1.6666654611e-1f + a2 * (8.3321608736e-3f - a2 * 1.9515295891e-4f));
                float c = 1 - a2 / 2 + a2 * a2 * (4.1666645683e-2f + a2 * (-1.3887316255e-3f + a2 * 2.4433157118e-5f));
                float sine = quarter & 1 ? c : s, cosine = quarter & 1 ? s : c;
                float e0 = radius * (quarter & 2 ? -sine : sine);
                float e1 = radius * ((quarter + 1) & 2 ? -cosine : cosine);

                float x0 = theta + e0, x1 = theta + e1;
                score[l] += x0 * x0 * e0;
                path[l] += 2 * x0;
                if (i + 1 < w->n) { score[l] += x1 * x1 * e1; path[l] += 2 * x1; }
            }
        for (int l = 0; l < LANES && r + l < w->end; l++) {
            double g = score[l] / w->n - 2 * w->theta, h = path[l] / w->n - 2 * w->theta;
            w->sums[0] += g; w->sums[1] += g * g; w->sums[2] += h; w->sums[3] += h * h;
        }
    }
    return NULL;
}

void sums(uint64_t key, uint64_t n, uint64_t replicates, double theta, int threads, double *total) {
    pthread_t thread[threads];
    Part part[threads];
    memset(total, 0, 4 * sizeof(double));
    for (int i = 0; i < threads; i++) {
        part[i] = (Part){{(uint32_t)(key >> 32), (uint32_t)key}, n,
                         replicates * i / threads, replicates * (i + 1) / threads, theta, {0}};
        pthread_create(&thread[i], NULL, run, &part[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        for (int k = 0; k < 4; k++) total[k] += part[i].sums[k];
    }
}
"""


@cache
def compiled() -> tuple[Callable[..., None] | None, str]:
    """The function `sums`, compiled for this machine. Or None, with the reason."""
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        return None, "there is no C compiler (cc)"
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "sums.c", Path(folder) / "sums.so"
        source.write_text(SOURCE)
        command = [compiler, *COMMAND, "-o", str(library), str(source), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            function = ctypes.CDLL(str(library)).sums
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            return None, f"{compiler} failed: {said[0] if said else error}"
    function.restype = None
    function.argtypes = [
        ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_double, ctypes.c_int, ctypes.POINTER(ctypes.c_double)
    ]  # fmt: skip
    return function, ""
