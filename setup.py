"""Map the checkout's one folder of configs into the package: `configs/` here is `recognition/configs/` in a wheel.

Everything else about the distribution is in pyproject.toml. These two settings are here because pyproject.toml either
searches for packages or lists them, and the folder of configs lies where no search for `recognition*` looks.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["recognition", "recognition.*"]), "recognition.configs"],
    package_dir={"recognition.configs": "configs"},
)
