"""Counts of what is found, used and left out."""

from densevit.data.datasets.inventory import Inventory


def test_the_numbers_add_up():
    inventory = Inventory("image", used=10)
    inventory.leave_out("without a label", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    inventory.leave_out("in no list", [])
    inventory.leave_out("unreadable", ["e.jpg"])
    assert inventory.total == 15
    text = "15 images found: 10 used, 5 left out (4 without a label: a.jpg, b.jpg, c.jpg, ...; 1 unreadable: e.jpg)"
    assert str(inventory) == text
    assert str(Inventory("box", used=2)) == "2 boxes found: 2 used, 0 left out"
    assert str(Inventory("box", used=1)) == "1 box found: 1 used, 0 left out"
