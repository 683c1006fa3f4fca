"""Kill convert, group, permute and first-level at random moments and go on each time.

    python tests/benchmarks/kill_anywhere.py --moments 20

After each kill all that claims to be whole is compared with the outputs of a run that nothing disturbed, and so is the
end. The first difference is an AssertionError.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from killing import kill_anywhere, make_inputs


def main() -> None:
    """Kill, and print a line a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="over all commands")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = make_inputs(Path(folder, "inputs"))
        for number, (command, arguments) in enumerate(commands.items()):
            moments = given.moments // 4 + (number < given.moments % 4)
            begun, place = time.monotonic(), Path(folder, command)
            place.mkdir()
            kills = kill_anywhere(command, arguments, place, moments, given.seed)
            seconds = time.monotonic() - begun
            print(
                f"{command}: {kills.n} kills, the same result; whole after each: "
                f"{', '.join(map(str, kills.whole))}; {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
