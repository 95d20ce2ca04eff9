// SPDX-License-Identifier: GPL-2.0

//! The program, as far as it does something without a driver.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn fublk(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fublk"));
    command.args(args).env_remove("FUBLK_LOG").env_remove("JOURNAL_STREAM");
    command
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fublk-cli-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

fn check(path: &Path) -> Output {
    fublk(&["run", "--check", path.to_str().unwrap()]).output().unwrap()
}

#[test]
fn nobody_reads_to_the_end() {
    let mut child =
        fublk(&["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn nobody_has_dropped_it() {
    let output = fublk(&["readmit", "/nowhere/at/all"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), said.as_str()),
        (Some(1), "fublk: /nowhere/at/all: no mirror has dropped it\n")
    );
}

#[test]
fn a_file_is_looked_at() {
    let dir = scratch("config");
    let path = dir.join("devices.toml");
    let tell = |text: &str| {
        fs::write(&path, text).unwrap();
        let output = check(&path);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) =
        tell("[[device]]\nid = 3\ntarget = ['null']\n[[device]]\nid = 5\ntarget = ['null']\n");
    assert_eq!((code, out.as_str()), (Some(0), "/dev/ublkb3\n/dev/ublkb5\n"));
    let (code, _, err) = tell("[[device]]\nid = 3\ntarget = ['null']\ncolour = 'red'\n");
    assert_eq!(code, Some(1));
    assert!(err.starts_with(&format!("fublk: {}:4: unknown field `colour`", path.display())), "{err}");
    assert_eq!(err.lines().count(), 1);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn manual_and_units_say_what_there_is() {
    let dir = scratch("man");
    assert!(fublk(&["man", dir.to_str().unwrap()]).status().unwrap().success());
    let page = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    for words in ["Exit status:", "6  there is no such device", "FUBLK_LOG", "\\-\\-quiet"] {
        assert!(page("fublk.1").contains(words), "fublk.1 lacks {words}");
    }
    assert!(page("fublk-run.1").contains("[[device]]"));
    // The lines that others execute have to be ours.
    let system = Path::new(env!("CARGO_MANIFEST_DIR")).join("../system");
    let mut seen = 0;
    for file in ["fublk@.service", "60-fublk.rules"] {
        let text = fs::read_to_string(system.join(file)).unwrap();
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("/usr/bin/fublk ") else { continue };
            let words = rest.split('"').next().unwrap_or(rest).split(' ');
            // There may be a file of that name, and a driver: it must not be served.
            let path = |word: &str| word.replace("/etc/fublk/%i", dir.join("none").to_str().unwrap());
            let args: Vec<_> = words.map(|word| path(word).replace("%k", "ublkc0")).collect();
            assert!(args.iter().all(|word| !word.contains("/etc/") && !word.contains('%')), "{args:?}");
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            // It is understood, if not done.
            let output = fublk(&args).output().unwrap();
            assert_ne!(output.status.code(), Some(2), "{file}: {line}: {output:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
    // Both drivers do.
    let service = fs::read_to_string(system.join("fublk@.service")).unwrap();
    let loads = service.lines().find(|line| line.starts_with("ExecStartPre=-")).unwrap();
    let names = ["ublk_rs", "ublk_drv"].map(|name| loads.find(&format!("modprobe -q {name}")));
    assert!(names[0].is_some() && names[0] < names[1], "{loads}");
    // It comes after a network, if there is to be one, and nobody waits for one without need.
    let has = |line| service.lines().any(|known| known == line);
    assert!(has("After=local-fs.target") && has("After=network.target network-online.target"));
    assert!(!service.lines().any(|line| line.starts_with("Wants=") && line.contains("network")));
    fs::remove_dir_all(dir).unwrap();
}
