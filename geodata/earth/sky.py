"""Sun and clouds by date: where the sun stands when satellites pass, how thick the cloud is, where its shadow falls.

Weather is noise on the sphere that is new every day: systems of some hundred kilometres decide whether a place is
overcast or clear, and smaller noise breaks them into clouds. Always cloudy places of the map (code 10) are cloudy on
every date.
"""

from __future__ import annotations

import math
from datetime import date

import numpy as np
from numpy.typing import NDArray

from geodata.earth.ground import Nodes, Survey, exact, on_sphere
from geodata.earth.noise import noise, salt

Float32 = NDArray[np.float32]
Float = NDArray[np.float64]

CLOUD_NODE_M = 60.0
CLOUD_TOP_M = 1500.0
_SIZES = (420e3, 90e3, 17e3, 4.1e3, 1100.0, 330.0)
_WEIGHTS = np.array([1.0, 0.55, 0.4, 0.34, 0.24, 0.13], np.float32)
_CIRRUS = (150e3, 22e3)


def day_of_year(day: date) -> int:
    """1 to 366."""
    return day.timetuple().tm_yday


def sun(lat: Float, day: date) -> tuple[Float32, Float32, Float32]:
    """Towards the sun at half past ten: sine of its elevation (at least 0.12), and the east and north parts of its
    horizontal unit vector, at latitudes (any shape)."""
    declination = math.radians(23.44) * math.sin(2 * math.pi * (day_of_year(day) - 81) / 365.25)
    hour = math.radians(-22.5)
    up = np.radians(lat).astype(np.float32)
    height = np.sin(up) * math.sin(declination) + np.cos(up) * math.cos(declination) * math.cos(hour)
    east = np.full_like(up, -math.cos(declination) * math.sin(hour))
    north = np.cos(up) * math.sin(declination) - np.sin(up) * math.cos(declination) * math.cos(hour)
    length = np.sqrt(east * east + north * north) + 1e-9
    return (
        np.maximum(height, 0.12).astype(np.float32),
        (east / length).astype(np.float32),
        (north / length).astype(np.float32),
    )


def weather(
    lon: Float, lat: Float, day: date, seed: int, shift: tuple[Float, Float] | None = None
) -> Float32:
    """Thickness of cloud before clipping (N,) at points in degrees, looked up `shift` metres east and north of them."""
    points = on_sphere(lon, lat)
    if shift is not None:
        along, up = np.radians(lon), np.radians(lat)
        points = points + shift[0] * np.stack([-np.sin(along), np.cos(along), np.zeros_like(along)])
        points += shift[1] * np.stack([-np.sin(up) * np.cos(along), -np.sin(up) * np.sin(along), np.cos(up)])
    number = day.toordinal()
    layers = noise(points, _SIZES, [salt(seed, "cloud", number, size) for size in map(int, _SIZES)])
    wet = 0.35 * np.cos(np.radians(2.0 * lat)).astype(np.float32)  # the tropics a little more
    return np.tensordot(_WEIGHTS, layers, 1) + wet * 0.3 - np.float32(0.35)


def clouds(ground: Survey, day: date) -> tuple[Float32, Float32, Float32]:
    """Opacity of cloud, of its shadow and of cirrus at every pixel (H, W), 0 to 1."""
    nodes = Nodes.around(ground.grid, CLOUD_NODE_M)
    lon, lat = nodes.places()
    height, east, north = sun(lat, day)
    reach = CLOUD_TOP_M * np.minimum(np.sqrt(1 - height * height) / height, 3.0)
    over = weather(lon, lat, day, ground.seed)
    sunward = weather(lon, lat, day, ground.seed, (reach * east, reach * north))
    number = day.toordinal()
    veil = noise(
        on_sphere(lon, lat), _CIRRUS, [salt(ground.seed, "cirrus", number, int(size)) for size in _CIRRUS]
    )
    high = 0.8 * veil[0] + 0.5 * veil[1] - np.float32(1.15)
    columns, rows = (exact(axis) for axis in ground.grid.xy())
    thick, shaded, thin = nodes.spread(np.stack([over, sunward, high]), columns, rows)
    always = np.clip(3.0 * ground.cloudy, -1.0, 1.0)
    opacity = np.clip(np.maximum(2.6 * thick, always + 0.3 * thick), 0, 1)
    shadow = np.clip(2.6 * shaded, 0, 1) * (1 - opacity)
    return opacity.astype(np.float32), shadow.astype(np.float32), np.clip(0.5 * thin, 0, 0.4)


def overcast(lon: Float, lat: Float, days: list[date], seed: int) -> NDArray[np.float64]:
    """Share of points (N,) under cloud or cirrus on each day (D,): what a scene's metadata says of it."""
    if not days:
        return np.zeros(0)
    points = on_sphere(lon, lat)
    sizes = _SIZES[:5]
    numbers = [day.toordinal() for day in days]
    salts = [salt(seed, "cloud", number, int(size)) for number in numbers for size in sizes]
    layers = noise(points, sizes * len(days), salts).reshape(len(days), len(sizes), -1)
    wet = 0.35 * np.cos(np.radians(2.0 * lat)).astype(np.float32)
    thick = np.einsum("s,dsn->dn", _WEIGHTS[: len(sizes)], layers) + wet * 0.3 - np.float32(0.35)
    return (thick > 0.15).mean(axis=1)
