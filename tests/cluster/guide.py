"""Runs the blocks of docs/admin-guide.md as a reader would.

A block `console` has prompts: `root@node1# COMMAND`, `alice@node2$ COMMAND`, `root@all# COMMAND`.
What follows a command up to the next prompt is what it prints: one line of the guide for one line of
output, with `…` for anything; without such lines it may print what it likes; a single `…` likewise.
A command that ends in `# fails` must fail, and print those lines somewhere.

A block `toml` that begins with `# /PATH` is a file on node1, and so is a block `sh` whose second
line is `# /PATH`. Other blocks are for readers only.
"""

import re
from dataclasses import dataclass, field

from machines import Fail, parallel, until

PROMPT = re.compile(r"^(?P<user>[a-z]+)@(?P<node>all|node\d+)[#$] (?P<command>.*)$")
# A command may be early: what it shows shall be so within this time.
PATIENCE = 20


@dataclass
class Command:
    line: int
    user: str
    node: str
    text: str
    output: list = field(default_factory=list)

    @property
    def fails(self):
        return self.text.rstrip().endswith("# fails")


@dataclass
class File:
    line: int
    path: str
    text: str
    mode: int = 0o644


def parse(text):
    """The sections of the guide, in order: (heading, [Command or File])."""
    sections, steps, block, kind, start = [], None, None, None, 0
    for number, line in enumerate(text.splitlines(), 1):
        if block is None and line.startswith("#"):
            steps = []
            sections.append((line.lstrip("# "), steps))
        elif block is None and line.startswith("```"):
            block, kind, start = [], line[3:].strip(), number
        elif block is not None and line.startswith("```"):
            steps.extend(_steps(kind, block, start))
            block = None
        elif block is not None:
            block.append(line)
    return [(heading, steps) for heading, steps in sections if steps]


def needs_more(steps):
    """Whether a section is about a node that is not there from the beginning."""
    return any(isinstance(step, Command) and step.node == "node5" for step in steps)


def _steps(kind, block, start):
    if kind == "toml" and block and block[0].startswith("# /"):
        return [File(start, block[0][2:].strip(), "\n".join(block) + "\n")]
    if kind == "sh" and len(block) > 1 and block[1].startswith("# /"):
        return [File(start, block[1][2:].strip(), "\n".join(block) + "\n", 0o755)]
    if kind != "console":
        return []
    commands = []
    for number, line in enumerate(block, start + 1):
        prompt = PROMPT.match(line)
        if prompt:
            commands.append(Command(number, prompt["user"], prompt["node"], prompt["command"]))
        elif commands and commands[-1].text.endswith("\\") and not commands[-1].output:
            commands[-1].text = commands[-1].text[:-1] + line
        elif commands:
            commands[-1].output.append(line)
        else:
            raise Fail(f"line {number} of the guide: output without a command")
    return commands


def _matches(pattern, line):
    parts = [re.escape(" ".join(part.split())) for part in pattern.split("…")]
    return re.fullmatch(r"\s*" + r".*?".join(r"\s*" + p.replace(r"\ ", r"\s+") + r"\s*"
                                             for p in parts), line) is not None


def _differs(command, out):
    """What is wrong with the output, or None."""
    expected = [line for line in command.output if line.strip()]
    if not expected or expected == ["…"]:
        return None
    if expected[-1] == "…":
        # The beginning counts.
        expected = expected[:-1]
        out = "\n".join([line for line in out.splitlines() if line.strip()][: len(expected)])
    found = [line for line in out.splitlines() if line.strip()]
    if command.fails:
        missing = [line for line in expected if not any(_matches(line, each) for each in found)]
        return f"no line like {missing[0]!r} in {out!r}" if missing else None
    if len(expected) != len(found):
        return f"expected {len(expected)} lines, found {out!r}"
    for pattern, line in zip(expected, found):
        if not _matches(pattern, line):
            return f"expected {pattern!r}, found {line!r}"
    return None


def run_step(cluster, step, say):
    """Does one step; raises Fail with the line of the guide."""
    if isinstance(step, File):
        say(f"node1: {step.path}")
        path = cluster[1].path(step.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)
        path.chmod(step.mode)
        return
    say(f"{step.user}@{step.node}: {step.text}")
    machines = cluster.running() if step.node == "all" else [cluster[int(step.node[4:])]]

    def attempt(machine):
        code, out, err = machine.sh(step.text, step.user)
        shown = out + err if step.fails or code else out
        if (code == 0) == step.fails:
            return f"exit status {code}: {shown.strip()!r}"
        return _differs(step, shown)

    def work(machine):
        # Only a command that shows something is asked again: it may have come too early.
        wrong = attempt(machine)
        if wrong and step.output and not step.fails:
            wrong = not until(lambda: not (attempt(machine)), PATIENCE, 0.5) and attempt(machine)
        if wrong:
            raise Fail(f"line {step.line} of the guide, {step.user}@{machine}: {step.text}\n"
                       f"  {wrong}")

    parallel(work, machines)
