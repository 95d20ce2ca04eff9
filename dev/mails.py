"""Series of mails from the patch stack, for dev/stack: which patches make one,
what the sender has to answer first, and who gets them.

series/groups has a line per series, in the order of the stack: its name, its
change-id, and the patch that it begins with, without number. It goes on to the
next series; the last one to the end. series/cover.NAME is its cover letter: the
subject, an empty line, the text. A single patch without one is sent by itself: it
applies on the base, and no series depends on it.

series/README asks what only the sender can answer, on lines
"    question: answer"; an answer "open" is none.
"""

import re
import subprocess
from email.utils import formataddr


class Problem(Exception):
    """Something that has to be put right before anything can be sent."""


class Group:
    """A series: consecutive patches with a cover letter."""

    def __init__(self, name, change_id, first):
        self.name, self.change_id, self.first = name, change_id, first
        self.patches = []
        self.subject = self.text = None
        self.by_itself = False

    def read_cover(self, path):
        """The cover letter."""
        self.by_itself = not path.is_file() and len(self.patches) == 1
        if self.by_itself:
            self.subject = stem(self.patches[0])
            return
        if not path.is_file():
            raise Problem(f"{path.name} is missing: the cover letter of series/groups: {self.name}")
        self.subject, _, text = path.read_text().strip().partition("\n")
        self.text = text.strip()
        if not self.text:
            raise Problem(f"{path.name} has a subject only")


def stem(name):
    """A patch's name without its number, which changes with others."""
    return re.sub(r"^\d+-|\.patch$", "", name)


def read_groups(series, names):
    """series/groups, with the patches of each; all of them belong to one."""
    groups = []
    for line in (series / "groups").read_text().splitlines():
        fields = line.split("#")[0].split()
        if fields:
            if len(fields) != 3:
                raise Problem(f"series/groups: a name, a change-id and a patch: {line}")
            groups.append(Group(*fields))
    left = list(groups)
    for name in names:
        if left and stem(name) == left[0].first:
            left.pop(0)
        if len(left) == len(groups):
            raise Problem(f"series/groups: {name} is before the first series")
        groups[len(groups) - len(left) - 1].patches.append(name)
    if left:
        raise Problem(f"series/groups: no patch {left[0].first}, or not in this order")
    for group in groups:
        group.read_cover(series / f"cover.{group.name}")
    return groups


def own_files(groups):
    """What belongs to series/ beside the patches."""
    return {"series/README", "series/groups"} | {f"series/cover.{g.name}" for g in groups if not g.by_itself}


QUESTIONS = ("signed-off-by", "assisted-by", "base-commit", "maintainers")


def answers(series):
    """What series/README says."""
    found = dict(re.findall(r"^ {4}([a-z-]+): +(\S.*)$", (series / "README").read_text(), re.M))
    for question in QUESTIONS:
        if question not in found:
            raise Problem(f"series/README does not ask for {question}")
    return found


def sections(text):
    """The entries of MAINTAINERS: title -> lines."""
    found, title = {}, None
    for line in text.splitlines():
        if re.match(r"[A-Z]:\t", line):
            found.setdefault(title, []).append(line)
        elif line.strip() and not line[0].isspace():
            title = line
    return found


# They have files of which somebody else should take care.
GENERAL = ("THE REST", "RUST")


def orphans(text, files):
    """Files that no entry of MAINTAINERS names but the most general ones."""
    patterns = [line.split("\t")[1] for title, lines in sections(text).items() if title not in GENERAL
                for line in lines if line.startswith("F:\t")]
    # As get_maintainer.pl takes them: a directory and all below it, or names in one.
    wanted = [re.compile(re.escape(p).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") + (".*" if p.endswith("/") else "$"))
              for p in patterns]
    return [f for f in files if not any(w.match(f) for w in wanted)]


def check(found, who, old, new):
    """Refuse while anything is open. `old` and `new` are MAINTAINERS."""
    wrong = [f"series/README: {q} is open" for q in QUESTIONS if found[q] == "open"]
    if found["signed-off-by"] not in ("open", who):
        wrong.append(f"series/README says that {found['signed-off-by']} signs off, git says {who}")
    if not re.fullmatch(r"open|[0-9a-f]{40}", found["base-commit"]):
        wrong.append(f"series/README: base-commit is no commit: {found['base-commit']}")
    before = sections(old)
    for title, lines in sections(new).items():
        if title not in before and not any(x.startswith("M:\t") for x in lines):
            wrong.append(f"MAINTAINERS: nobody (M:) in the new entry {title}")
    if wrong:
        raise Problem("not yet:\n  " + "\n  ".join(wrong))


def recipients(linux, maintainers, mail):
    """Who gets a patch: maintainers, and reviewers and lists."""
    out = subprocess.run(
        ["scripts/get_maintainer.pl", "--no-git", "--no-git-fallback", f"--mpath={maintainers}", str(mail)],
        cwd=linux, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if out.returncode:
        raise Problem(f"get_maintainer.pl {mail}: {out.stderr.strip()}")
    to, cc = [], []
    for line in out.stdout.splitlines():
        parts = re.fullmatch(r'(?:"?(.*?)"? <)?([^<> ]+@[^<> ]+?)>? \((.*)\)', line)
        if not parts:
            raise Problem(f"get_maintainer.pl says: {line}")
        name, address, role = parts.groups()
        (to if role.startswith(("maintainer", "supporter")) else cc).append(formataddr((name or "", address)))
    return to, cc


def address(mail, to, cc):
    """Put the recipients into a mail's headers, each once."""
    to = list(dict.fromkeys(to))
    cc = [c for c in dict.fromkeys(cc) if c not in to]
    lines = [f"{field}: " + ",\n\t".join(those) for field, those in (("To", to), ("Cc", cc)) if those]
    head, sep, body = mail.read_text().partition("\n\n")
    mail.write_text("\n".join([head, *lines]) + sep + body)


def cover(mail, group, base, after):
    """Fill in a cover letter, or what a lone patch has at its end. `after` is the series that this one applies on."""
    text = mail.read_text()
    if not group.by_itself:
        text = text.replace("*** SUBJECT HERE ***", group.subject)
        text = text.replace("*** BLURB HERE ***", group.text)
    trailers = f"change-id: {group.change_id}\n"
    if after:
        trailers += f"prerequisite-change-id: {after}\n"
    text = re.sub(r"^base-commit: .*$", f"base-commit: {base}", text, flags=re.M)
    text = re.sub(r"^base-commit: ", lambda m: trailers + m[0], text, flags=re.M)
    if trailers not in text:
        raise Problem(f"{mail}: git has written no base-commit")
    mail.write_text(text)
