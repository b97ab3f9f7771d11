"""When a disk counts as full."""

import shutil
from pathlib import Path

import pytest

from services.cli.settings import Environment
from services.kit.disk import RESERVE, shortage
from services.worker_manager.settings import ManagerSettings


@pytest.mark.parametrize("reserve", [0.0, 1.0, 4096.0])
def test_a_disk_with_more_than_its_reserve_has_room(tmp_path: Path, reserve: float) -> None:
    assert shortage(tmp_path, min(reserve, 0.000_001) if reserve < 1 else reserve) is None


def test_a_reserve_is_in_bytes_or_below_one_a_part_of_the_disk(tmp_path: Path) -> None:
    disk = shutil.disk_usage(tmp_path)
    more_than_free = min(0.999_999, disk.free / disk.total + 0.01)

    for reserve in (more_than_free, disk.free + (1 << 40)):
        why = shortage(tmp_path, reserve)
        assert why is not None
        assert str(tmp_path) in why
        assert "JETCREW_DISK_RESERVE" in why


def test_a_disk_of_another_host_is_not_judged(tmp_path: Path) -> None:
    assert shortage(tmp_path / "not" / "here", 1e18) is None


def test_doctor_and_the_manager_go_by_the_same_reserve() -> None:
    assert ManagerSettings.model_fields["disk_reserve"].default == RESERVE
    assert Environment(variables={}).disk_reserve == RESERVE
    assert Environment(variables={"JETCREW_DISK_RESERVE": "0.1"}).disk_reserve == 0.1
    assert Environment(variables={"JETCREW_DISK_RESERVE": "much"}).disk_reserve == RESERVE
