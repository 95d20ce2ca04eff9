// SPDX-License-Identifier: GPL-2.0

//! The phases of a device, and the one function that changes them.
//!
//! ```text
//!           Open              last Fetched            Start
//!  Closed --------> Fetching --------------> Ready ---------> Live
//!    ^                 |                       |               |
//!    |                 +---------- Stop -------+------ Stop ---+
//!    |                                         |         ServerDied
//!    +----------------- Close ------------- Stopping
//! ```
//!
//! `Close` is possible in every phase: the server may die at any time. A device that can be
//! recovered keeps its disk then, and the next server takes it over:
//!
//! ```text
//!         Orphan              Open              last Fetched           Recover
//!  Live ---------> Orphaned --------> Fetching --------------> Ready ----------> Live
//!                     ^              with disk              with disk
//!                     +---- Orphan ------+---------------------+
//! ```
//!
//! `Stop` ends each of these phases as well, and the disk.

use kernel::prelude::*;

/// What a device is doing.
///
/// `S` is what is known of the server, `D` is the disk. Whether the disk exists follows from the
/// phase, it needs no flag.
pub(crate) enum Phase<S, D> {
    /// No server has the character device open.
    Closed,
    /// A server has the character device open and gives its I/O commands; `fetched` so far.
    Fetching {
        server: S,
        fetched: u32,
        /// The disk that the last server left behind.
        orphan: Option<D>,
    },
    /// The server has given a command for every slot.
    Ready { server: S, orphan: Option<D> },
    /// The disk exists and is served.
    Live { server: S, disk: D },
    /// The disk exists, but its server is gone.
    Orphaned { disk: D },
    /// The disk is gone and the commands of this server are canceled. The server has to close the
    /// character device before another one can attach.
    Stopping { server: S },
}

/// What happens to a device.
pub(crate) enum Event<S, D> {
    /// A server opens the character device.
    Open(S),
    /// A slot got its first command; there are `total` slots.
    Fetched { total: u32 },
    /// The disk was added.
    Start(D),
    /// The server takes over the disk of the last one.
    Recover,
    /// The device is to be stopped.
    Stop,
    /// The server closed the character device while it may have a disk, which ends.
    ServerDied,
    /// The same for a disk that stays. All traces of the server are removed.
    Orphan,
    /// All traces of the server are removed.
    Close,
}

impl<S, D> Phase<S, D> {
    /// Changes the phase, and returns the disk if the device has to lose it.
    ///
    /// The phase stays as it is when an error is returned:
    /// - [`EBUSY`]: there is a server already, or all commands are fetched already, or the server
    ///   has not yet reacted to a stop, or it has its disk already.
    /// - [`ENODEV`]: the device is being stopped, its server must not fetch.
    /// - [`EEXIST`]: there is a disk already.
    /// - [`EINVAL`]: the event is impossible in this phase.
    pub(crate) fn change(&mut self, event: Event<S, D>) -> Result<Option<D>> {
        let (next, result) = match (core::mem::replace(self, Phase::Closed), event) {
            (Phase::Closed, Event::Open(server)) => (Self::attached(server, None), Ok(None)),
            (Phase::Orphaned { disk }, Event::Open(server)) => {
                (Self::attached(server, Some(disk)), Ok(None))
            }
            (phase, Event::Open(_)) => (phase, Err(EBUSY)),

            (
                Phase::Fetching {
                    server,
                    fetched,
                    orphan,
                },
                Event::Fetched { total },
            ) => {
                let fetched = fetched + 1;
                if fetched == total {
                    (Phase::Ready { server, orphan }, Ok(None))
                } else {
                    let phase = Phase::Fetching {
                        server,
                        fetched,
                        orphan,
                    };
                    (phase, Ok(None))
                }
            }
            (phase, Event::Fetched { .. }) => {
                let err = phase.may_fetch().err().unwrap_or(EINVAL);
                (phase, Err(err))
            }

            (
                Phase::Ready {
                    server,
                    orphan: None,
                },
                Event::Start(disk),
            ) => (Phase::Live { server, disk }, Ok(None)),
            (phase, Event::Start(_)) => {
                let err = phase.may_start().err().unwrap_or(EINVAL);
                (phase, Err(err))
            }

            (
                Phase::Ready {
                    server,
                    orphan: Some(disk),
                },
                Event::Recover,
            ) => (Phase::Live { server, disk }, Ok(None)),
            (
                phase @ (Phase::Live { .. }
                | Phase::Stopping { .. }
                | Phase::Ready { orphan: None, .. }),
                Event::Recover,
            ) => (phase, Err(EBUSY)),
            (phase, Event::Recover) => (phase, Err(EINVAL)),

            (Phase::Closed, Event::Stop) => (Phase::Closed, Ok(None)),
            (Phase::Orphaned { disk }, Event::Stop) => (Phase::Closed, Ok(Some(disk))),
            (
                Phase::Fetching { server, orphan, .. } | Phase::Ready { server, orphan },
                Event::Stop,
            ) => (Phase::Stopping { server }, Ok(orphan)),
            (phase @ Phase::Stopping { .. }, Event::Stop) => (phase, Ok(None)),
            (Phase::Live { server, disk }, Event::Stop | Event::ServerDied) => {
                (Phase::Stopping { server }, Ok(Some(disk)))
            }
            (phase, Event::ServerDied) => (phase, Ok(None)),

            (
                Phase::Live { disk, .. }
                | Phase::Fetching {
                    orphan: Some(disk), ..
                }
                | Phase::Ready {
                    orphan: Some(disk), ..
                },
                Event::Orphan,
            ) => (Phase::Orphaned { disk }, Ok(None)),
            (phase, Event::Orphan) => (phase, Err(EINVAL)),

            (Phase::Live { disk, .. } | Phase::Orphaned { disk }, Event::Close) => {
                (Phase::Closed, Ok(Some(disk)))
            }
            (Phase::Fetching { orphan, .. } | Phase::Ready { orphan, .. }, Event::Close) => {
                (Phase::Closed, Ok(orphan))
            }
            (Phase::Closed | Phase::Stopping { .. }, Event::Close) => (Phase::Closed, Ok(None)),
        };
        *self = next;
        result
    }

    fn attached(server: S, orphan: Option<D>) -> Self {
        Phase::Fetching {
            server,
            fetched: 0,
            orphan,
        }
    }

    /// Whether the server may give the first command of a slot now.
    pub(crate) fn may_fetch(&self) -> Result {
        match self {
            Phase::Fetching { .. } => Ok(()),
            Phase::Ready { .. } | Phase::Live { .. } => Err(EBUSY),
            Phase::Stopping { .. } => Err(ENODEV),
            Phase::Closed | Phase::Orphaned { .. } => Err(EINVAL),
        }
    }

    /// Whether the disk may be added now.
    pub(crate) fn may_start(&self) -> Result {
        match self {
            Phase::Ready { orphan: None, .. } => Ok(()),
            Phase::Live { .. }
            | Phase::Ready {
                orphan: Some(_), ..
            } => Err(EEXIST),
            Phase::Stopping { .. } => Err(EBUSY),
            Phase::Closed | Phase::Fetching { .. } | Phase::Orphaned { .. } => Err(EINVAL),
        }
    }

    /// Whether somebody who waits to start the device has to look at it.
    pub(crate) fn fetched_or_stopping(&self) -> bool {
        match self {
            Phase::Closed | Phase::Fetching { .. } | Phase::Orphaned { .. } => false,
            Phase::Ready { .. } | Phase::Live { .. } | Phase::Stopping { .. } => true,
        }
    }

    /// Whether no server has the character device open, but there is a disk.
    pub(crate) fn is_orphaned(&self) -> bool {
        matches!(self, Phase::Orphaned { .. })
    }

    /// Whether a server has the disk.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Phase::Live { .. })
    }

    /// Whether a server has given all its commands but has no disk yet, or not yet that of the
    /// last one.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Phase::Ready { .. })
    }

    /// The server, if there is one.
    pub(crate) fn server(&self) -> Option<&S> {
        match self {
            Phase::Closed | Phase::Orphaned { .. } => None,
            Phase::Fetching { server, .. }
            | Phase::Ready { server, .. }
            | Phase::Live { server, .. }
            | Phase::Stopping { server } => Some(server),
        }
    }

    /// The server, if there is one, for changes.
    pub(crate) fn server_mut(&mut self) -> Option<&mut S> {
        match self {
            Phase::Closed | Phase::Orphaned { .. } => None,
            Phase::Fetching { server, .. }
            | Phase::Ready { server, .. }
            | Phase::Live { server, .. }
            | Phase::Stopping { server } => Some(server),
        }
    }

    /// The disk, if there is one.
    pub(crate) fn disk(&self) -> Option<&D> {
        match self {
            Phase::Live { disk, .. } | Phase::Orphaned { disk } => Some(disk),
            Phase::Fetching { orphan, .. } | Phase::Ready { orphan, .. } => orphan.as_ref(),
            Phase::Closed | Phase::Stopping { .. } => None,
        }
    }
}

#[kunit_tests(ublk_rs_phase)]
mod tests {
    use super::*;

    type Test = Phase<&'static str, u32>;

    fn fetched(slots: u32) -> Test {
        let mut phase = Test::Closed;
        assert!(phase.change(Event::Open("server")).is_ok());
        for _ in 0..slots {
            assert!(phase.change(Event::Fetched { total: 2 }).is_ok());
        }
        phase
    }

    #[test]
    fn whole_life() {
        let mut phase = fetched(2);
        assert!(phase.may_start().is_ok());
        assert!(phase.change(Event::Start(7)).is_ok());
        assert_eq!(phase.disk(), Some(&7));
        assert_eq!(phase.change(Event::Stop), Ok(Some(7)));
        assert_eq!(phase.disk(), None);
        assert_eq!(phase.server(), Some(&"server"));
        assert_eq!(phase.change(Event::Close), Ok(None));
        assert!(phase.change(Event::Open("next")).is_ok());
    }

    #[test]
    fn one_server() {
        let mut phase = fetched(1);
        assert_eq!(phase.change(Event::Open("second")), Err(EBUSY));
        assert_eq!(phase.server(), Some(&"server"));
        assert!(!phase.fetched_or_stopping());
    }

    #[test]
    fn start_needs_all_commands() {
        assert_eq!(fetched(1).change(Event::Start(1)), Err(EINVAL));
        let mut phase = fetched(2);
        assert_eq!(phase.change(Event::Fetched { total: 2 }), Err(EBUSY));
        assert!(phase.change(Event::Start(1)).is_ok());
        assert_eq!(phase.change(Event::Start(2)), Err(EEXIST));
        assert_eq!(phase.disk(), Some(&1));
    }

    #[test]
    fn stopped_server_must_close() {
        let mut phase = fetched(1);
        assert_eq!(phase.change(Event::Stop), Ok(None));
        assert!(phase.fetched_or_stopping());
        assert_eq!(phase.change(Event::Fetched { total: 2 }), Err(ENODEV));
        assert_eq!(phase.change(Event::Start(1)), Err(EBUSY));
        assert_eq!(phase.change(Event::Open("second")), Err(EBUSY));
    }

    #[test]
    fn server_death() {
        let mut phase = fetched(1);
        assert_eq!(phase.change(Event::ServerDied), Ok(None));
        assert!(phase.may_fetch().is_ok());
        let mut phase = fetched(2);
        assert!(phase.change(Event::Start(3)).is_ok());
        assert_eq!(phase.change(Event::ServerDied), Ok(Some(3)));
        assert_eq!(phase.change(Event::Close), Ok(None));
        assert_eq!(phase.change(Event::Stop), Ok(None));
        assert!(phase.server().is_none());
    }

    fn live() -> Test {
        let mut phase = fetched(2);
        assert!(phase.change(Event::Start(5)).is_ok());
        phase
    }

    #[test]
    fn recovery() {
        let mut phase = live();
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
        assert_eq!(phase.change(Event::Orphan), Ok(None));
        assert!(phase.is_orphaned() && phase.server().is_none());
        assert_eq!(phase.disk(), Some(&5));
        assert_eq!(phase.change(Event::Recover), Err(EINVAL));
        assert!(phase.change(Event::Open("next")).is_ok());
        assert_eq!(phase.change(Event::Recover), Err(EINVAL));
        for _ in 0..2 {
            assert!(phase.change(Event::Fetched { total: 2 }).is_ok());
        }
        assert!(phase.is_ready());
        assert_eq!(phase.change(Event::Start(6)), Err(EEXIST));
        assert_eq!(phase.change(Event::Recover), Ok(None));
        assert!(phase.is_live());
        assert_eq!(phase.disk(), Some(&5));
    }

    #[test]
    fn nothing_to_recover() {
        let mut phase = Phase::<_, i32>::Closed;
        assert!(phase.change(Event::Open("server")).is_ok());
        assert_eq!(phase.change(Event::Recover), Err(EINVAL));
        assert!(phase.change(Event::Fetched { total: 1 }).is_ok());
        assert!(phase.is_ready());
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
    }

    #[test]
    fn death_during_recovery() {
        for slots in 0..=2 {
            let mut phase = live();
            assert!(phase.change(Event::Orphan).is_ok());
            assert!(phase.change(Event::Open("next")).is_ok());
            for _ in 0..slots {
                assert!(phase.change(Event::Fetched { total: 2 }).is_ok());
            }
            assert_eq!(phase.change(Event::Orphan), Ok(None));
            assert!(phase.is_orphaned());
        }
    }

    #[test]
    fn stop_ends_an_orphan() {
        let mut phase = live();
        assert!(phase.change(Event::Orphan).is_ok());
        assert_eq!(phase.change(Event::Stop), Ok(Some(5)));
        assert!(phase.change(Event::Open("new")).is_ok());
        let mut phase = live();
        assert!(phase.change(Event::Orphan).is_ok());
        assert!(phase.change(Event::Open("next")).is_ok());
        assert_eq!(phase.change(Event::Stop), Ok(Some(5)));
        assert_eq!(phase.change(Event::Orphan), Err(EINVAL));
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
        assert_eq!(phase.change(Event::Close), Ok(None));
    }
}
