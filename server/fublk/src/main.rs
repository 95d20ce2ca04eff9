// SPDX-License-Identifier: GPL-2.0

//! `fublk`: block devices that are served in user space.

#![forbid(unsafe_code)]

mod failure;
mod list;
mod manage;
mod serve;
mod size;
mod spec;
mod state;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use failure::Failure;
use size::Size;
use spec::Spec;
use std::{path::PathBuf, process::ExitCode};
use ublk_server::{Mode, Options, Recovery};

const EXIT_STATUS: &str = "\
Exit status:
  0  all is well
  1  something has failed
  2  the command line is wrong
  3  there is no ublk driver
  4  that is not permitted
  5  a file or device is in use
  6  there is no such device

A device ends with its server: by `fublk stop` or `fublk del`, or when the server
gets SIGTERM, SIGINT or SIGHUP. What the server of device N has to say is in
/run/fublk/N.log, or on standard error with --foreground.";

/// Serve block devices from user space, through the kernel's ublk driver.
#[derive(Parser)]
#[command(version, after_help = EXIT_STATUS, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
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
    /// Serve a device whose server has died
    Recover {
        /// Its number
        id: u32,
        /// Do not go to the background
        #[arg(long)]
        foreground: bool,
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
    },
    /// Show what the driver can do
    Features,
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
    /// What happens to the device if the server dies
    #[arg(long, value_enum, default_value_t = Death::End)]
    on_death: Death,
    /// Do not go to the background
    #[arg(long)]
    foreground: bool,
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
    if !matches!(cli.verb, Verb::Man { .. } | Verb::Completion { .. }) {
        failure::driver_is_there()?;
    }
    match cli.verb {
        Verb::Add { how, .. } if !how.foreground => serve::in_background(),
        Verb::Add { how, target } => serve::add(&how.options(), target),
        Verb::Recover { foreground: false, .. } => serve::in_background(),
        Verb::Recover { id, .. } => serve::recover(id),
        Verb::List { id, json } => list::list(id, json),
        Verb::Stop { id, force } => manage::stop(id, force),
        Verb::Del { ids, all } => manage::delete(if all { list::ids()? } else { ids }),
        Verb::Resize { id, size } => manage::resize(id, size),
        Verb::Features => list::features(),
        Verb::Man { directory } => Ok(clap_mangen::generate_to(Cli::command(), directory)?),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "fublk", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ublk_server::log(format_args!("fublk: {failure}"));
            failure.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
        let add = Cli::try_parse_from(["fublk", "add", "--mode", "auto", "--on-death", "fail", "null"]);
        let Ok(Cli { verb: Verb::Add { how, .. } }) = add else { panic!("it does not parse") };
        assert_eq!((how.options().mode, how.options().recovery), (Some(Mode::Auto), Recovery::Fail));
        for wrong in ["add", "del", "add --mode none null", "del --all 3", "resize 1 12Q"] {
            let args = ["fublk"].into_iter().chain(wrong.split(' '));
            assert!(Cli::try_parse_from(args).is_err(), "{wrong}");
        }
    }
}
