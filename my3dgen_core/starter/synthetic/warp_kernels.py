# ruff: noqa: UP018, RUF046  (warp needs float(...) and int(...) for variables that change)
# mypy: ignore-errors
"""Warp kernels for ray casting and shading: the color of a hit from its part, canonical position and light.

Kernels are compiled once per device and cached. Imported by `ray_casting` alone.
"""

import warp as wp

wp.config.log_level = max(wp.config.log_level, wp.LOG_ERROR)  # no banner, no warning about a missing GPU
wp.set_module_options({"enable_backward": False})  # halves the compilation

# Columns of the shading parameters of heads [H, PAINT].
SKIN_RGB, LIPS_RGB, HAIR_RGB, BROW_RGB, IRIS_RGB, FRAME_RGB = (wp.constant(3 * i) for i in range(6))
HAIRLINE, BROW_WIDTH, BROW_AMOUNT, BEARD, BLUSH, GAZE_X, GAZE_Y, FRECKLES, BALD = (
    wp.constant(18 + i) for i in range(9)
)
PAINT = 27  # number of shading parameters
# Columns of the vertex attributes [V, ATTRIBUTES]: canonical xyz, lips, lid, lip line, hair height,
# openness, ear.
ATTRIBUTES = 9
# Columns of a mark [H, M, MARK]: center xyz, radius, rgb, softness as a fraction of the radius (negative: a
# capsule to the center of the next mark).
MARK = 8


@wp.func
def _blend(a: wp.vec3, b: wp.vec3, t: float):
    return a + (b - a) * t


# Smoothstep from 0 at edge0 to 1 at edge1; edge0 may be the larger one.
@wp.func
def _ramp(edge0: float, edge1: float, x: float):
    t = wp.clamp((x - edge0) / (edge1 - edge0), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


# Gaussian around a center with a standard deviation per axis of size / sqrt(2).
@wp.func
def _spot(c: wp.vec3, center: wp.vec3, size: wp.vec3):
    d = wp.cw_div(c - center, size)
    return wp.exp(-wp.dot(d, d))


@wp.func
def _rgb(paint: wp.array2d(dtype=float), h: int, column: int):
    return wp.vec3(paint[h, column], paint[h, column + 1], paint[h, column + 2])


@wp.func
def _brow(c: wp.vec3, width: float):
    # An arch over each eye in canonical coordinates, thick near the nose and thinner outwards.
    s = wp.abs(c[0])
    u = (s - 0.030) / 0.092
    middle = 0.1285 + 0.019 * u - 0.030 * u * u * u
    half = width * (1.0 - 0.55 * u) * _ramp(-0.08, 0.10, u)
    body = _ramp(1.35, 0.55, wp.abs(c[1] - middle) / wp.max(half, 1.0e-4))
    return body * _ramp(-0.10, 0.06, u) * _ramp(1.12, 0.92, u) * _ramp(0.08, 0.12, c[2])


@wp.func
def _eye_color(c: wp.vec3, center: wp.vec3, gaze: wp.vec3, iris: wp.vec3):
    d = wp.normalize(c - center)
    angle = wp.acos(wp.clamp(wp.dot(d, gaze), -1.0, 1.0))
    white = wp.vec3(0.93, 0.92, 0.90) - wp.vec3(0.05, 0.12, 0.12) * _ramp(0.5, 1.1, angle)
    color = _blend(iris * 1.15, iris * 0.45, _ramp(0.30, 0.47, angle))
    color = _blend(color, wp.vec3(0.02, 0.02, 0.02), _ramp(0.21, 0.17, angle))
    color = _blend(color, white, _ramp(0.46, 0.52, angle))
    glint = wp.acos(wp.clamp(wp.dot(d, wp.normalize(gaze + wp.vec3(0.10, 0.26, 0.0))), -1.0, 1.0))
    return _blend(color, wp.vec3(1.0, 1.0, 1.0), 0.9 * _ramp(0.11, 0.05, glint))


# Color of a point before lighting, from its part and attributes, the shading parameters and marks of head h.
@wp.func
def _paint(
    part: int,
    c: wp.vec3,
    lips: float,
    lid: float,
    lip_line: float,
    hair: float,
    ear: float,
    h: int,
    paint: wp.array2d(dtype=float),
    marks: wp.array3d(dtype=float),
    eyes: wp.array(dtype=wp.vec3),
):
    skin = _rgb(paint, h, SKIN_RGB)
    if part == 1 or part == 2:
        gaze = wp.normalize(wp.vec3(paint[h, GAZE_X], paint[h, GAZE_Y], 1.0))
        return _eye_color(c, eyes[part - 1], gaze, _rgb(paint, h, IRIS_RGB))
    if part == 3:
        return _blend(wp.vec3(0.30, 0.08, 0.08), _rgb(paint, h, LIPS_RGB), 0.8 * _ramp(0.2, 0.9, lip_line))
    if part == 4:
        return wp.vec3(0.62, 0.27, 0.27)
    if part == 5:
        return _rgb(paint, h, FRAME_RGB)

    # Skin: redness of cheeks, nose and ears; shade around the eyes.
    side = wp.vec3(wp.abs(c[0]), c[1], c[2])
    warm = _spot(side, wp.vec3(0.105, -0.02, 0.19), wp.vec3(0.055, 0.05, 0.10))
    warm = (
        warm
        + 0.8 * _spot(side, wp.vec3(0.0, -0.005, 0.30), wp.vec3(0.035, 0.03, 0.06))
        + 0.5 * _ramp(0.05, 0.4, ear)
    )
    color = wp.cw_mul(
        skin, wp.vec3(1.0, 1.0, 1.0) + wp.vec3(0.02, -0.09, -0.085) * warm * (0.4 + paint[h, BLUSH])
    )
    orbit = _spot(side, wp.vec3(0.078, 0.078, 0.19), wp.vec3(0.052, 0.036, 0.08))
    color = wp.cw_mul(color, wp.vec3(1.0, 1.0, 1.0) - wp.vec3(0.10, 0.14, 0.13) * orbit)
    if paint[h, FRECKLES] > 0.0:
        grain = wp.noise(wp.uint32(11), c * 95.0)
        place = warm + 0.5 * _spot(side, wp.vec3(0.06, 0.02, 0.24), wp.vec3(0.08, 0.06, 0.10))
        dots = _ramp(0.22, 0.42, grain) * wp.clamp(place * 1.6, 0.0, 1.0)
        color = wp.cw_mul(
            color, wp.vec3(1.0, 1.0, 1.0) - wp.vec3(0.28, 0.42, 0.48) * dots * paint[h, FRECKLES]
        )

    # Beard on jaw, chin and upper lip; the lips are drawn over it.
    dip = wp.exp(-((side[0] - 0.085) * (side[0] - 0.085)) / 0.0006)
    line = -0.056 + 0.095 * _ramp(0.085, 0.165, side[0]) - 0.030 * dip
    jaw = _ramp(line + 0.014, line - 0.022, c[1]) * _ramp(-0.34, -0.25, c[1]) * _ramp(-0.03, 0.04, c[2])
    color = _blend(color, _rgb(paint, h, BROW_RGB) * 0.9, 0.75 * paint[h, BEARD] * jaw)

    color = _blend(color, _rgb(paint, h, LIPS_RGB), _ramp(0.32, 0.58, lips))
    color = color * (1.0 - 0.45 * _ramp(0.35, 1.0, lip_line))
    upper_lid = _ramp(0.070, 0.088, c[1])
    color = color * (1.0 - (0.30 + 0.55 * upper_lid) * _ramp(0.30, 0.95, lid))

    # Marks: a soft disc, or a capsule to the center of the next mark if the softness is negative.
    for m in range(marks.shape[1]):
        radius = marks[h, m, 3]
        if radius > 0.0:
            a = wp.vec3(marks[h, m, 0], marks[h, m, 1], marks[h, m, 2])
            soft = marks[h, m, 7]
            nearest = a
            if soft < 0.0:
                b = wp.vec3(marks[h, m + 1, 0], marks[h, m + 1, 1], marks[h, m + 1, 2])
                along = wp.clamp(wp.dot(c - a, b - a) / wp.dot(b - a, b - a), 0.0, 1.0)
                nearest = a + (b - a) * along
                soft = -soft
            wobble = 1.0 + 0.25 * wp.noise(wp.uint32(5), c * (1.2 / radius))
            inside = _ramp(1.0, 1.0 - soft, wp.length(c - nearest) / (radius * wobble))
            color = _blend(color, wp.vec3(marks[h, m, 4], marks[h, m, 5], marks[h, m, 6]), inside)

    color = _blend(color, _rgb(paint, h, BROW_RGB), paint[h, BROW_AMOUNT] * _brow(c, paint[h, BROW_WIDTH]))

    # Hair: a noisy hairline without a sharp edge; darker at the roots, a little grain.
    strands = wp.noise(wp.uint32(3), wp.vec3(c[0] * 70.0, c[1] * 16.0, c[2] * 40.0))
    height = hair - paint[h, HAIRLINE] + 0.010 * strands
    cover = _ramp(-0.014, 0.016, height) * _ramp(0.22, 0.05, ear) * (1.0 - paint[h, BALD])
    tint = _rgb(paint, h, HAIR_RGB) * (0.96 + 0.16 * strands + 0.10 * _ramp(0.0, 0.2, height))
    return _blend(color, tint, cover)


# One thread per ray: averages `grid` x `grid` rays over a pixel. Arguments and output as `ray_casting.cast`.
@wp.kernel
def cast_rays(
    meshes: wp.array(dtype=wp.uint64),
    triangles: wp.array2d(dtype=wp.int32),
    parts: wp.array(dtype=wp.int32),
    attributes: wp.array2d(dtype=float),
    normals: wp.array2d(dtype=wp.vec3),
    paint: wp.array2d(dtype=float),
    marks: wp.array3d(dtype=float),
    eyes: wp.array(dtype=wp.vec3),
    cameras: wp.array2d(dtype=float),
    head_of_camera: wp.array(dtype=wp.int32),
    camera_of_ray: wp.array(dtype=wp.int32),
    pixels: wp.array(dtype=wp.vec2),
    footprint: float,
    grid: int,
    out: wp.array2d(dtype=float),
):
    ray = wp.tid()
    k = camera_of_ray[ray]
    h = head_of_camera[k]
    origin = wp.vec3(cameras[k, 3], cameras[k, 7], cameras[k, 11])
    total = wp.vec3(0.0, 0.0, 0.0)
    hits = float(0.0)
    near = float(0.0)
    center = float(0.0)
    samples = grid * grid
    first = int(0)
    if grid > 1:
        first = -1  # an additional central ray for the depth only
    for i in range(first, samples):
        x = pixels[ray][0]
        y = pixels[ray][1]
        if i >= 0:
            x += footprint * ((float(i % grid) + 0.5) / float(grid) - 0.5)
            y += footprint * ((float(i / grid) + 0.5) / float(grid) - 0.5)
        u = (x - cameras[k, 18]) / cameras[k, 16]
        v = (y - cameras[k, 21]) / cameras[k, 20]
        d = wp.normalize(
            wp.vec3(
                cameras[k, 0] * u + cameras[k, 1] * v + cameras[k, 2],
                cameras[k, 4] * u + cameras[k, 5] * v + cameras[k, 6],
                cameras[k, 8] * u + cameras[k, 9] * v + cameras[k, 10],
            )
        )
        color = wp.vec3(1.0, 1.0, 1.0)
        hit = wp.mesh_query_ray(meshes[h], origin, d, 10.0)
        if hit.result:
            if i == -1 or samples == 1:
                center = hit.t
            a = triangles[hit.face, 0]
            b = triangles[hit.face, 1]
            e = triangles[hit.face, 2]
            wa = hit.u
            wb = hit.v
            we = 1.0 - wa - wb
            if i >= 0:
                n = normals[h, a] * wa + normals[h, b] * wb + normals[h, e] * we
                n = wp.normalize(n)
                c = wp.vec3(
                    attributes[a, 0] * wa + attributes[b, 0] * wb + attributes[e, 0] * we,
                    attributes[a, 1] * wa + attributes[b, 1] * wb + attributes[e, 1] * we,
                    attributes[a, 2] * wa + attributes[b, 2] * wb + attributes[e, 2] * we,
                )
                lips = attributes[a, 3] * wa + attributes[b, 3] * wb + attributes[e, 3] * we
                lid = attributes[a, 4] * wa + attributes[b, 4] * wb + attributes[e, 4] * we
                line = attributes[a, 5] * wa + attributes[b, 5] * wb + attributes[e, 5] * we
                hair = attributes[a, 6] * wa + attributes[b, 6] * wb + attributes[e, 6] * we
                open = attributes[a, 7] * wa + attributes[b, 7] * wb + attributes[e, 7] * we
                ear = attributes[a, 8] * wa + attributes[b, 8] * wb + attributes[e, 8] * we
                color = _paint(parts[hit.face], c, lips, lid, line, hair, ear, h, paint, marks, eyes)
                # Fixed soft light, symmetric in x: the mirrored view is the view of the mirrored head.
                key = wp.max(wp.dot(n, wp.vec3(0.0, 0.42, 0.9075)) * 0.6 + 0.4, 0.0)
                fill = n[1] * 0.5 + 0.5
                light = (0.44 + 0.50 * key + 0.12 * fill) * (0.50 + 0.50 * open)
                color = color * light
                hits += 1.0
                near += hit.t
        if i >= 0:
            total += wp.vec3(
                wp.clamp(color[0], 0.0, 1.0), wp.clamp(color[1], 0.0, 1.0), wp.clamp(color[2], 0.0, 1.0)
            )
    scale = 1.0 / float(samples)
    for j in range(3):
        out[ray, j] = 2.0 * total[j] * scale - 1.0
    if center == 0.0 and hits > 0.0:
        center = near / hits
    out[ray, 3] = center
    out[ray, 4] = hits * scale


# One thread per vertex: the fraction of `count` cosine-distributed rays of length `reach` that hit nothing.
@wp.kernel
def openness(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    count: int,
    reach: float,
    out: wp.array(dtype=float),
):
    i = wp.tid()
    state = wp.rand_init(7, i)
    n = normals[i]
    start = points[i] + n * 0.002
    free = float(0.0)
    for _ in range(count):
        d = wp.normalize(n + wp.sample_unit_sphere_surface(state) * 0.98)
        hit = wp.mesh_query_ray(mesh, start, d, reach)
        if not hit.result:
            free += 1.0
    out[i] = free / float(count)
