"""The manual pages and completions are those of this program, legal, and say everything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from oc2d import cli
from oc2d.config_keys import KEYS
from oc2d.hookspecs import Hooks
from oc2d.producer.options import build_parser
from oc2d_audit import AuditConfig
from oc2d_log import _KEYS as LOG_KEYS
from oc2d_slpf.settings import _KEYS as SLPF_KEYS

ROOT = Path(__file__).resolve().parent.parent
MAN = ROOT / "packaging/man"
COMPLETIONS = ROOT / "packaging/completions"
#: The keys of the plugins in the Debian package, by their tables.
PLUGINS = {
    "actuators.slpf": SLPF_KEYS,
    "actuators.x-log": LOG_KEYS,
    "actuators.pf": ("log_group",),
    "plugins.policy": ("file",),
    "plugins.audit": tuple(AuditConfig.__dataclass_fields__),
}


def run(program, *arguments, text=None):
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}")
    return subprocess.run(
        [path, *arguments], input=text, capture_output=True, text=True, check=False, timeout=60
    )


def flat(path):
    """A page without its roff."""
    return re.sub(r"\\f[BIR]|\\&", "", path.read_text()).replace("\\-", "-").replace("\\e", "\\")


def test_pages_and_completions_are_up_to_date():
    done = run(sys.executable, str(ROOT / "scripts/manuals"), "--check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("page", ["oc2d.8", "oc2ctl.1", "oc2d.toml.5"])
def test_the_pages_are_legal_roff(page):
    done = run("groff", "-man", "-ww", "-b", "-Tutf8", "-P-cbou", str(MAN / page))
    assert (done.returncode, done.stderr) == (0, "")
    assert "NAME" in done.stdout


@pytest.mark.parametrize(
    ("page", "parser"), [("oc2d.8", cli.build_parser()), ("oc2ctl.1", build_parser())]
)
def test_the_pages_have_every_option_and_command(page, parser):
    text = flat(MAN / page)

    def look(one):
        for action in one._actions:
            for name in action.option_strings:
                assert name in text, name
            if hasattr(action, "_choices_actions"):
                for name, sub in action.choices.items():
                    assert re.search(rf"^\.SS \w+ {name}\b", text, re.MULTILINE), name
                    look(sub)

    look(parser)


def test_the_page_of_the_configuration_has_every_key():
    text = flat(MAN / "oc2d.toml.5")
    for name in (*(key.name for key in KEYS), *chain.from_iterable(PLUGINS.values())):
        assert f"\n.TP\n{name}\n" in text, name


def test_the_reference_has_every_key_of_the_first_plugins():
    text = (ROOT / "docs/configuration.md").read_text()
    for table, keys in PLUGINS.items():
        section = text.split(f"### `[{table}]`")[1].split("\n##")[0]
        assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == keys


def test_the_exit_codes_are_the_same_everywhere():
    for place in ("docs/operating.md", "docs/oc2ctl.md"):
        codes = re.findall(r"^\| (\d+) \|", (ROOT / place).read_text(), re.MULTILINE)
        assert codes == ["0", "1", "2", "78"], place
    for page in ("oc2d.8", "oc2ctl.1"):
        codes = re.findall(r"^\.TP\n(\d+)$", flat(MAN / page), re.MULTILINE)
        assert codes == ["0", "1", "2", "78"], page


def test_the_guide_for_plugin_authors_has_every_hook():
    guide = ROOT / "docs/plugins.md"
    if guide.exists():
        hooks = [name for name in vars(Hooks) if name.startswith("oc2d_")]
        assert hooks
        assert [name for name in hooks if f"`{name}" not in guide.read_text()] == []


# -- completion, by the shells themselves

CASES = [
    ("oc2d st", {"status"}),
    ("oc2d status --w", {"--watch"}),
    ("oc2d --log-format j", {"journal", "json"}),
    ("oc2ctl de", {"deny", "delete"}),
    ("oc2ctl deny ipv4", {"ipv4_net", "ipv4_connection"}),
    ("oc2ctl deny --direction in", {"ingress"}),
    ("oc2ctl --json deny ipv4_connection --device fw-7 pro", {"protocol="}),
    ("oc2ctl query features pa", {"pairs"}),
    ("oc2ctl query features versions pro", {"profiles"}),
    ("oc2ctl command de", {"deny", "delete", "detonate"}),
    ("oc2ctl command deny ipv6", {"ipv6_net", "ipv6_connection"}),
    ("oc2ctl command scan device host", {"hostname="}),
    ("oc2ctl update file --response a", {"ack"}),
    ("oc2ctl deny --drop", {"--drop-process"}),
]


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_bash_completes(line, words):
    program = line.split()[0]
    script = f"""set -u
. {COMPLETIONS}/{program}
compopt() {{ :; }}
COMP_LINE='{line}' COMP_POINT={len(line)}
_{program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = run("bash", text=script)
    assert (set(done.stdout.split()), done.stderr) == (words, "")


def test_bash_completes_a_word_with_a_colon():
    line = "oc2ctl delete slpf:ru"
    script = f". {COMPLETIONS}/oc2ctl; COMP_LINE='{line}' COMP_POINT={len(line)}; _oc2ctl; "
    assert run("bash", text=script + 'echo "$COMPREPLY"').stdout == "rule_number\n"


# members of targets are completed in bash only
PLAIN = [case for case in CASES if "=" not in "".join(case[1])]


@pytest.mark.parametrize(("line", "words"), PLAIN, ids=[line for line, _ in PLAIN])
def test_fish_completes(line, words):
    program = line.split()[0]
    done = run(
        "fish", "--no-config", text=f"source {COMPLETIONS}/{program}.fish\ncomplete -C '{line}'"
    )
    assert done.stderr == ""
    assert {row.split("\t")[0] for row in done.stdout.splitlines()} >= words


@pytest.mark.parametrize("program", ["oc2d", "oc2ctl"])
def test_zsh_takes_the_file(program):
    done = run("zsh", "-n", str(COMPLETIONS / f"_{program}"))
    assert (done.returncode, done.stderr) == (0, "")
