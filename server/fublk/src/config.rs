// SPDX-License-Identifier: GPL-2.0

//! A file that says what several devices are.

use crate::{Death, Failure, spec::Spec};
use clap::ValueEnum;
use serde::Deserialize;
use std::{collections::BTreeMap, fs, ops::Range, path::Path};
use toml::Spanned;
use ublk_server::Mode;
use ublk_sys::uapi::MAX_QUEUE_DEPTH;

/// For the man page and the help.
pub(crate) const HELP: &str = "\
The file:
  Each device has a table [[device]]. Unknown keys are errors.
    id = 3                  its number: /dev/ublkb3
    target = [\"file\", \"--direct\", \"/srv/disk.img\"]
                            what it is, as after `fublk add`
    queues, depth, mode, on_death, degraded
                            optional; as the options of `fublk add`; degraded is true or false

A device that is there already, because its server has died, goes on, and one that has
a server stays as it is. All devices of a file are made, or none; but those that were
there before stay, also when another one fails.

With --foreground, one process looks after the servers. It starts those again that
die, if their devices were made to wait for that (on_death), and ends when all have
ended. Where a device waits for a server, it is tried again for ever, at least every
30 s. SIGTERM ends all devices that have a server, the last one of the file first, as it
may be made of others; a second one ends all at once. systemd is told when all are there.";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsed {
    device: Vec<Spanned<Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    id: Spanned<u32>,
    target: Spanned<Vec<String>>,
    queues: Option<Spanned<u16>>,
    depth: Option<Spanned<u16>>,
    mode: Option<Spanned<String>>,
    on_death: Option<Spanned<String>>,
    degraded: Option<bool>,
}

/// A device of the file.
#[derive(Debug, PartialEq, Clone)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    /// The next server can go on with it.
    pub(crate) survives: bool,
    pub(crate) spec: Spec,
    /// As after `fublk add`, without `--foreground`.
    pub(crate) args: Vec<String>,
}

/// Read such a file. An error says where it is.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|e| Failure::new(format!("{name}: {e}")))?;
    parse(&text).map_err(|(at, why)| {
        let line = text.get(..at).unwrap_or(&text).matches('\n').count() + 1;
        Failure::new(format!("{name}:{line}: {why}"))
    })
}

type Wrong = (usize, String);

fn wrong(span: Range<usize>, why: impl Into<String>) -> Wrong {
    (span.start, why.into())
}

fn parse(text: &str) -> Result<Vec<Entry>, Wrong> {
    let parsed: Parsed = toml::from_str(text).map_err(|e| {
        // One line is enough.
        wrong(e.span().unwrap_or(0..0), e.message().lines().collect::<Vec<_>>().join(", "))
    })?;
    let mut seen = BTreeMap::new();
    let mut entries = Vec::new();
    for table in parsed.device {
        let table = table.into_inner();
        let (id, at) = (*table.id.get_ref(), table.id.span());
        if seen.insert(id, ()).is_some() {
            return Err(wrong(at, format!("there is a device {id} before")));
        }
        entries.push(entry(id, table)?);
    }
    if entries.is_empty() {
        return Err((0, "there is no device".into()));
    }
    Ok(entries)
}

fn entry(id: u32, table: Table) -> Result<Entry, Wrong> {
    let mut args = vec!["--id".to_owned(), id.to_string(), "--take-over".into()];
    let number = |what: &str, value: Option<Spanned<u16>>, most: u16| match value {
        Some(n) if !(1..=most).contains(n.get_ref()) => {
            Err(wrong(n.span(), format!("{what}: from 1 to {most}")))
        }
        value => Ok(value.map(|n| [format!("--{what}"), n.get_ref().to_string()])),
    };
    args.extend(number("queues", table.queues, 4096)?.into_iter().flatten());
    args.extend(number("depth", table.depth, MAX_QUEUE_DEPTH)?.into_iter().flatten());
    if let Some(mode) = table.mode {
        mode.get_ref().parse::<Mode>().map_err(|why| wrong(mode.span(), format!("mode: {why}")))?;
        args.extend(["--mode".into(), mode.into_inner()]);
    }
    let mut survives = false;
    if let Some(death) = table.on_death {
        let known = Death::from_str(death.get_ref(), false);
        let known = known.map_err(|_| wrong(death.span(), "on_death: one of end, wait, reissue, fail"))?;
        survives = !matches!(known, Death::End);
        args.extend(["--on-death".into(), death.into_inner()]);
    }
    let (at, target) = (table.target.span(), table.target.into_inner());
    let spec = Spec::parse(&target).map_err(|why| wrong(at, format!("target: {why}")))?;
    args.extend(table.degraded.unwrap_or(false).then(|| "--degraded".into()));
    args.extend(target);
    Ok(Entry { id, survives, spec, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> (usize, String) {
        let (at, why) = parse(text).unwrap_err();
        (text[..at].matches('\n').count() + 1, why)
    }

    #[test]
    fn what_is_right() {
        let text = "
            # Two of them.
            [[device]]
            id = 3
            target = ['null']

            [[device]]
            id = 4
            queues = 2
            depth = 16
            mode = 'copy'
            on_death = 'reissue'
            degraded = true
            target = ['file', '--direct', '/a b']
        ";
        let entries = parse(text).unwrap();
        assert_eq!(entries[0].args.join(" "), "--id 3 --take-over null");
        let expected = "--id 4 --take-over --queues 2 --depth 16 --mode copy --on-death reissue --degraded file --direct /a b";
        assert_eq!(entries[1].args.join(" "), expected);
        assert_eq!((entries[0].survives, entries[1].survives), (false, true));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let device = |more: &str| format!("[[device]]\nid = 3\ntarget = ['null']\n{more}\n");
        for (text, at, words) in [
            (device("size = 7"), 4, "unknown field `size`"),
            (device("mode = 'fast'"), 4, "mode: one of"),
            (device("on_death = 'cry'"), 4, "on_death: one of end"),
            (device("depth = 5000"), 4, "depth: from 1 to 4096"),
            (device("queues = 0"), 4, "queues: from 1"),
            (device("queues = 'two'"), 4, "invalid type"),
            (device("queues = 1\nqueues = 1"), 5, "duplicate key"),
            (device("[[device]]\nid = 3\ntarget = ['null']"), 5, "there is a device 3 before"),
            ("[[device]]\nid = 3\n".into(), 1, "missing field `target`"),
            ("[[device]]\nid = -1\ntarget = ['null']".into(), 2, "invalid value"),
            (
                "[[device]]\nid = 1\ntarget = ['tape', 'x']".into(),
                3,
                "target: unrecognized subcommand 'tape'",
            ),
            ("[[device]]\nid = 1\ntarget = ['file']".into(), 3, "target: the following required arguments"),
            ("[[device]]\nid = 1\ntarget = []".into(), 3, "target: "),
            ("[[devise]]\nid = 1".into(), 1, "unknown field `devise`"),
            ("device = []".into(), 1, "there is no device"),
            ("".into(), 1, "missing field `device`"),
            ("[[device]\n".into(), 1, ""),
        ] {
            let (line, why) = line(&text);
            assert!(line == at && why.contains(words) && !why.contains('\n'), "{text}: {line}: {why}");
        }
    }
}
