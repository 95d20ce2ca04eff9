// SPDX-License-Identifier: GPL-2.0

//! `fublk`: block devices that are served in user space.

#![forbid(unsafe_code)]

mod again;
mod asked;
mod before;
mod claim;
mod config;
mod dropped;
mod failure;
mod identity;
mod list;
mod manage;
mod notify;
mod owner;
mod run;
mod serve;
mod size;
mod slow;
mod spec;
mod state;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use failure::Failure;
use size::Size;
use spec::Spec;
use std::{path::PathBuf, process::ExitCode};
use ublk_server::{Level, Mode, Options, Recovery, flush_log, log_at, set_log_level};

const EXIT_STATUS: &str = "\
Exit status:
  0  all is well
  1  something has failed
  2  the command line is wrong
  3  there is no ublk driver
  4  that is not permitted
  5  a file or device is in use, or the device has a server already
  6  there is no such device

Environment:
  FUBLK_LOG        what is told: error, warn, info or debug; -v and -q count from it
  XDG_RUNTIME_DIR  where an ordinary user's devices are kept, in fublk/

A device ends with its server: by `fublk stop` or `fublk del`, or when the server
gets SIGTERM, SIGINT or SIGHUP. What the server of device N has to say is in
/run/fublk/N.log, or on standard error with --foreground. That file begins anew when it
has 1 MiB. Which files mirrors have dropped is kept in /var/lib/fublk/dropped, which must
not be on such a mirror itself.";

/// Serve block devices from user space, through the kernel's ublk driver.
#[derive(Parser)]
#[command(version, after_help = EXIT_STATUS, arg_required_else_help = true)]
struct Cli {
    /// Tell more; twice: for who looks for a fault
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Tell errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
    #[command(subcommand)]
    verb: Verb,
}

/// What is told by who has neither -v nor -q.
const LEVEL_VARIABLE: &str = "FUBLK_LOG";

impl Cli {
    /// What is told, and by our servers.
    fn level(&self, variable: Option<&str>) -> Result<Level, Failure> {
        let level = variable.filter(|name| !name.is_empty()).map_or(Ok(Level::Warning), str::parse);
        let level = level.map_err(|why| Failure::new(format!("{LEVEL_VARIABLE}: {why}")))?;
        Ok(level.shifted(i32::from(self.verbose) - i32::from(self.quiet)))
    }
}

#[derive(Subcommand)]
enum Verb {
    /// Make a device and serve it; print its path when it is there
    Add {
        #[command(flatten)]
        how: Add,
        #[command(subcommand)]
        target: Spec,
    },
    /// Make and serve the devices of a file; print their paths when they are there
    #[command(after_help = config::HELP)]
    Run {
        /// Its path
        file: PathBuf,
        /// Do not go to the background, and look after the servers
        #[arg(long)]
        foreground: bool,
        /// Only look whether the file is right
        #[arg(long, conflicts_with = "foreground")]
        check: bool,
    },
    /// Serve a device whose server has died
    Recover {
        /// Its number
        id: u32,
        /// Even if what it was made of are other files now
        #[arg(long)]
        force: bool,
        /// Do not go to the background
        #[arg(long)]
        foreground: bool,
    },
    /// Let mirrors use a file that one has dropped
    ///
    /// Such a file lacks what was written since, and may be read first: copy all data of another file of the mirror
    /// to it before, with the device stopped.
    Readmit {
        /// Its path
        path: PathBuf,
    },
    /// Show devices
    List {
        /// Only this one
        id: Option<u32>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a device that nobody uses, and its server
    Stop {
        /// Its number
        id: u32,
        /// Even if it is in use
        #[arg(long)]
        force: bool,
    },
    /// End devices, and their servers, whether they are used or not
    Del {
        /// Their numbers
        #[arg(required_unless_present = "all")]
        ids: Vec<u32>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Tell a device its new size
    Resize {
        /// Its number
        id: u32,
        /// The size; without, all that its files have. Units are K, M, G and T
        size: Option<Size>,
        /// Even if it becomes smaller, or if nobody can see how large its files are
        #[arg(long)]
        force: bool,
    },
    /// Show what the driver can do
    Features,
    /// Print the numbers of the user and the group that made a device, for udev
    Owner {
        /// Its name, or that of its disk: ublkc0, ublkb0
        node: String,
    },
    /// Write man pages to a directory
    Man {
        /// Which
        directory: PathBuf,
    },
    /// Print what a shell needs to complete our command lines
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args)]
#[group(skip)]
struct Add {
    /// The device's number; without, the first that is free
    #[arg(long)]
    id: Option<u32>,
    /// How many queues, with a thread each
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// How many requests at a time, in each queue
    #[arg(long, default_value_t = 128)]
    depth: u16,
    /// How data are moved: fused, auto or copy; without, the first of these that works
    #[arg(long)]
    mode: Option<Mode>,
    /// Whether a command to the driver is about many requests; without, as is best
    #[arg(long)]
    batch: Option<OnOff>,
    /// What happens to the device if the server dies
    #[arg(long, value_enum, default_value_t = Death::End)]
    on_death: Death,
    /// Go on with device --id if it was served like this, and its server has died
    #[arg(long, requires = "id")]
    take_over: bool,
    /// Of a mirror, drop files that are not there, are broken, or were dropped before. `recover` does so anyway
    #[arg(long)]
    degraded: bool,
    /// Do not go to the background
    #[arg(long)]
    foreground: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnOff {
    /// It is
    On,
    /// Of one
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum Death {
    /// It ends
    End,
    /// Requests under way fail, others wait for `fublk recover`
    Wait,
    /// All requests wait for `fublk recover`; some may be carried out twice
    Reissue,
    /// All requests fail until `fublk recover`
    Fail,
}

impl Add {
    fn options(&self) -> Options {
        Options {
            id: self.id,
            queues: self.queues,
            depth: self.depth,
            mode: self.mode,
            batch: self.batch.map(|batch| matches!(batch, OnOff::On)),
            recovery: match self.on_death {
                Death::End => Recovery::None,
                Death::Wait => Recovery::Wait,
                Death::Reissue => Recovery::Reissue,
                Death::Fail => Recovery::Fail,
            },
            ..Options::default()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let needs_driver = !matches!(
        cli.verb,
        Verb::Man { .. } | Verb::Completion { .. } | Verb::Run { check: true, .. } | Verb::Readmit { .. }
    );
    if needs_driver {
        failure::driver_is_there()?;
    }
    let stays = |foreground| foreground || serve::is_in_background();
    match cli.verb {
        Verb::Add { how, .. } if !stays(how.foreground) => serve::in_background(),
        Verb::Add { how, target } => serve::add(&how.options(), how.take_over, how.degraded, target),
        Verb::Run { file, check: true, .. } => run::check(&file),
        Verb::Run { file, foreground: true, .. } => run::in_foreground(&file),
        Verb::Run { file, .. } => run::in_background(&file),
        Verb::Owner { node } => owner::print_owner(&node),
        Verb::Recover { foreground, .. } if !stays(foreground) => serve::in_background(),
        Verb::Recover { id, force, .. } => serve::recover(id, force),
        Verb::Readmit { path } => dropped::readmit(&path),
        Verb::List { id, json } => list::list(id, json),
        Verb::Stop { id, force } => manage::stop(id, force),
        // A later one may be made of another, and writes to that until it has ended.
        Verb::Del { all: true, .. } => manage::delete(list::ids()?.into_iter().rev().collect()),
        Verb::Del { ids, .. } => manage::delete(ids),
        Verb::Resize { id, size, force } => manage::resize(id, size, force),
        Verb::Features => list::features(),
        Verb::Man { directory } => Ok(clap_mangen::generate_to(Cli::command(), directory)?),
        Verb::Completion { shell } => {
            // What can not be printed is no reason to panic.
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fublk", &mut text);
            list::print(String::from_utf8_lossy(&text))
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = cli.level(std::env::var(LEVEL_VARIABLE).ok().as_deref());
    let result = level.and_then(|level| {
        set_log_level(level);
        run(cli)
    });
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log_at(Level::Error, format_args!("fublk: {failure}"));
            failure.code()
        }
    };
    flush_log();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
        let add = Cli::try_parse_from(["fublk", "add", "--mode", "auto", "--on-death", "fail", "null"]);
        let Ok(Cli { verb: Verb::Add { how, .. }, .. }) = add else { panic!("it does not parse") };
        assert_eq!((how.options().mode, how.options().recovery), (Some(Mode::Auto), Recovery::Fail));
        for wrong in
            ["add", "del", "add --mode none null", "del --all 3", "resize 1 12Q", "add --take-over null"]
        {
            let args = ["fublk"].into_iter().chain(wrong.split(' '));
            assert!(Cli::try_parse_from(args).is_err(), "{wrong}");
        }
    }

    #[test]
    fn how_much_is_told() {
        let level = |args: &[&str], variable| {
            let args = ["fublk"].iter().chain(args);
            Cli::try_parse_from(args).unwrap().level(variable).map_err(|failure| failure.to_string())
        };
        assert_eq!(level(&["list"], None), Ok(Level::Warning));
        assert_eq!(level(&["-v", "list"], None), Ok(Level::Info));
        assert_eq!(level(&["list", "-vv"], Some("")), Ok(Level::Debug));
        assert_eq!(level(&["list", "-q"], Some("info")), Ok(Level::Warning));
        assert!(level(&["list"], Some("loud")).unwrap_err().contains("FUBLK_LOG: one of error"));
    }
}
