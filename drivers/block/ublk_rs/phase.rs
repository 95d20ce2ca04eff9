// SPDX-License-Identifier: GPL-2.0

//! The phases of a device, and the one function that changes them.
//!
//! ```text
//!         Open           last Fetched        Start           Started
//!  Closed -----> Fetching ---------> Ready ---------> Starting ---------> Live
//!    ^              |                 |   <- StartFailed -+                |
//!    |              | Stop            | Stop                               | Leave
//!    |              v                 v                                    v
//!    +--- Close --- Stopping <--------+--- Deleted --- Deleting <- Stop - Leaving
//! ```
//!
//! `Stop` is possible in Live as well. When the server has closed its file, `Stop` and then `Close`
//! remove all traces of it. But a device that can be recovered keeps its disk then, and the next
//! server takes it over:
//!
//! ```text
//!               Orphan           Open            last Fetched          Recover
//!  Live, Leaving -----> Orphaned -----> Fetching -----------> Ready -----------> Live
//!                          ^            with disk           with disk
//!                          +-- Orphan ------+-------------------+
//! ```
//!
//! `Stop` leads from each of these phases to Deleting. Without a server, that is followed by
//! Closed; nobody can attach before.

use core::mem;
use kernel::prelude::*;

/// What a device is doing.
///
/// `S` is what is known of the server, `D` is the disk, `R` a reference to it. Whether the disk
/// exists follows from the phase, it needs no flag.
pub(crate) enum DevicePhase<S, D, R> {
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
    /// The disk is being added. It may have requests already.
    Starting { server: S, disk: R },
    /// The disk exists and is served.
    Live { server: S, disk: D },
    /// The disk exists, but its server was sent away and gets no further request.
    Leaving { server: S, disk: D },
    /// The disk exists, but its server is gone.
    Orphaned { disk: D },
    /// The disk is being deleted; it may still have requests. No server can attach.
    Deleting { server: Option<S>, disk: Doomed },
    /// There is no disk, and the commands of this server are canceled. The server has to close the
    /// character device before another one can attach.
    Stopping { server: S },
}

/// What a disk that is being deleted was before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Doomed {
    /// It had a server, which serves what is under way.
    Served,
    /// Its server was sent away or gone.
    Orphan,
}

/// What user space is told about a device.
#[derive(Debug, PartialEq)]
pub(crate) enum Report<'a, S> {
    /// There is no disk.
    Dead,
    /// There is a disk, and this is its server.
    Live(&'a S),
    /// There is a disk that waits for a server.
    Orphan,
}

/// What happens to a device.
pub(crate) enum Event<S, D, R> {
    /// A server opens the character device.
    Open(S),
    /// A slot got its first command; there are `total` slots.
    Fetched { total: u32 },
    /// The disk is about to be added.
    Start(R),
    /// It was.
    Started(D),
    /// It could not be.
    StartFailed,
    /// The server takes over the disk of the last one.
    Recover,
    /// The server is sent away, its disk stays.
    Leave,
    /// The device is to be stopped.
    Stop,
    /// The disk that a stop returned is gone.
    Deleted,
    /// The server closed the character device, and the disk stays. All traces of the server are
    /// removed.
    Orphan,
    /// All traces of the server are removed, and of the disk.
    Close,
}

impl<S, D, R> DevicePhase<S, D, R> {
    /// Changes the phase, and returns the disk if the device has to lose it; [`Event::Deleted`] has
    /// to follow then.
    ///
    /// The phase stays as it is when an error is returned:
    /// - [`EBUSY`]: there is a server already, or all commands are fetched already, or the server
    ///   has not yet reacted to a stop, or it has its disk already, or the disk is being deleted.
    /// - [`ENODEV`]: the device is being stopped, its server must not fetch.
    /// - [`EEXIST`]: there is a disk already.
    /// - [`EINVAL`]: the event is impossible in this phase.
    pub(crate) fn change(&mut self, event: Event<S, D, R>) -> Result<Option<D>> {
        let (next, result) = mem::replace(self, Self::Closed).after(event);
        *self = next;
        result
    }

    fn after(self, event: Event<S, D, R>) -> (Self, Result<Option<D>>) {
        let next = match event {
            Event::Open(server) => match self {
                Self::Closed => Self::attached(server, None),
                Self::Orphaned { disk } => Self::attached(server, Some(disk)),
                other => return (other, Err(EBUSY)),
            },

            Event::Fetched { total } => match self {
                Self::Fetching {
                    server,
                    fetched,
                    orphan,
                } => match fetched + 1 {
                    fetched if fetched == total => Self::Ready { server, orphan },
                    fetched => Self::Fetching {
                        server,
                        fetched,
                        orphan,
                    },
                },
                other => {
                    let err = other.may_fetch().err().unwrap_or(EINVAL);
                    return (other, Err(err));
                }
            },

            Event::Start(disk) => match self {
                Self::Ready {
                    server,
                    orphan: None,
                } => Self::Starting { server, disk },
                other => {
                    let err = other.may_start().err().unwrap_or(EINVAL);
                    return (other, Err(err));
                }
            },
            Event::Started(disk) => match self {
                Self::Starting { server, .. } => Self::Live { server, disk },
                other => return (other, Err(EINVAL)),
            },
            Event::StartFailed => match self {
                Self::Starting { server, .. } => Self::Ready {
                    server,
                    orphan: None,
                },
                other => return (other, Err(EINVAL)),
            },

            Event::Recover => match self {
                Self::Ready {
                    server,
                    orphan: Some(disk),
                } => Self::Live { server, disk },
                other => {
                    let err = match other {
                        Self::Ready { .. }
                        | Self::Starting { .. }
                        | Self::Live { .. }
                        | Self::Leaving { .. }
                        | Self::Deleting { .. }
                        | Self::Stopping { .. } => EBUSY,
                        Self::Closed | Self::Fetching { .. } | Self::Orphaned { .. } => EINVAL,
                    };
                    return (other, Err(err));
                }
            },

            Event::Leave => match self {
                Self::Live { server, disk } => Self::Leaving { server, disk },
                other => return (other, Err(EINVAL)),
            },

            Event::Stop => return self.stopped(),
            Event::Deleted => match self {
                Self::Deleting {
                    server: Some(server),
                    ..
                } => Self::Stopping { server },
                Self::Deleting { server: None, .. } => Self::Closed,
                other => return (other, Err(EINVAL)),
            },

            Event::Orphan => match self {
                Self::Live { disk, .. }
                | Self::Leaving { disk, .. }
                | Self::Fetching {
                    orphan: Some(disk), ..
                }
                | Self::Ready {
                    orphan: Some(disk), ..
                } => Self::Orphaned { disk },
                other => return (other, Err(EINVAL)),
            },
            Event::Close => match self {
                Self::Closed | Self::Stopping { .. } => Self::Closed,
                other => return (other, Err(EINVAL)),
            },
        };
        (next, Ok(None))
    }

    fn attached(server: S, orphan: Option<D>) -> Self {
        Self::Fetching {
            server,
            fetched: 0,
            orphan,
        }
    }

    fn stopped(self) -> (Self, Result<Option<D>>) {
        let (server, doomed, disk) = match self {
            // There is nothing to stop. A server that attaches now is none of our business.
            Self::Closed => return (Self::Closed, Ok(None)),
            Self::Fetching { server, orphan, .. } | Self::Ready { server, orphan } => {
                match orphan {
                    None => return (Self::Stopping { server }, Ok(None)),
                    Some(disk) => (Some(server), Doomed::Orphan, disk),
                }
            }
            Self::Live { server, disk } => (Some(server), Doomed::Served, disk),
            Self::Leaving { server, disk } => (Some(server), Doomed::Orphan, disk),
            Self::Orphaned { disk } => (None, Doomed::Orphan, disk),
            other @ Self::Stopping { .. } => return (other, Ok(None)),
            other @ (Self::Starting { .. } | Self::Deleting { .. }) => return (other, Err(EINVAL)),
        };
        let next = Self::Deleting {
            server,
            disk: doomed,
        };
        (next, Ok(Some(disk)))
    }

    /// Whether the server may give the first command of a slot now.
    pub(crate) fn may_fetch(&self) -> Result {
        match self {
            Self::Fetching { .. } => Ok(()),
            Self::Ready { .. }
            | Self::Starting { .. }
            | Self::Live { .. }
            | Self::Leaving { .. } => Err(EBUSY),
            Self::Deleting { .. } | Self::Stopping { .. } => Err(ENODEV),
            Self::Closed | Self::Orphaned { .. } => Err(EINVAL),
        }
    }

    /// How many of `total` slots have no first command yet, if the server may give one now.
    pub(crate) fn left_to_fetch(&self, total: u32) -> Result<u32> {
        match self {
            Self::Fetching { fetched, .. } => Ok(total.saturating_sub(*fetched)),
            other => Err(other.may_fetch().err().unwrap_or(EINVAL)),
        }
    }

    /// Whether the disk may be added now.
    pub(crate) fn may_start(&self) -> Result {
        match self {
            Self::Ready { orphan: None, .. } => Ok(()),
            Self::Starting { .. }
            | Self::Live { .. }
            | Self::Leaving { .. }
            | Self::Ready {
                orphan: Some(_), ..
            } => Err(EEXIST),
            Self::Deleting { .. } | Self::Stopping { .. } => Err(EBUSY),
            Self::Closed | Self::Fetching { .. } | Self::Orphaned { .. } => Err(EINVAL),
        }
    }

    /// Whether somebody who waits to start the device has to look at it.
    pub(crate) fn fetched_or_stopping(&self) -> bool {
        match self {
            Self::Closed
            | Self::Fetching { .. }
            | Self::Orphaned { .. }
            | Self::Deleting { server: None, .. } => false,
            Self::Ready { .. }
            | Self::Starting { .. }
            | Self::Live { .. }
            | Self::Leaving { .. }
            | Self::Deleting {
                server: Some(_), ..
            }
            | Self::Stopping { .. } => true,
        }
    }

    /// What user space is told.
    pub(crate) fn report(&self) -> Report<'_, S> {
        match self {
            Self::Starting { server, .. }
            | Self::Live { server, .. }
            | Self::Leaving { server, .. }
            | Self::Deleting {
                server: Some(server),
                disk: Doomed::Served,
            } => Report::Live(server),
            Self::Orphaned { .. }
            | Self::Fetching {
                orphan: Some(_), ..
            }
            | Self::Ready {
                orphan: Some(_), ..
            }
            | Self::Deleting { .. } => Report::Orphan,
            Self::Closed
            | Self::Fetching { orphan: None, .. }
            | Self::Ready { orphan: None, .. }
            | Self::Stopping { .. } => Report::Dead,
        }
    }

    /// What the phase is called.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Closed => "Closed",
            Self::Fetching { .. } => "Fetching",
            Self::Ready { .. } => "Ready",
            Self::Starting { .. } => "Starting",
            Self::Live { .. } => "Live",
            Self::Leaving { .. } => "Leaving",
            Self::Orphaned { .. } => "Orphaned",
            Self::Deleting { .. } => "Deleting",
            Self::Stopping { .. } => "Stopping",
        }
    }

    /// Whether no server has the character device open, but there is a disk.
    pub(crate) fn is_orphaned(&self) -> bool {
        matches!(self, Self::Orphaned { .. })
    }

    /// Whether a server has the disk, and will get its requests.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }

    /// Whether there is a server with a command in every slot, which serves what comes, and was not
    /// sent away.
    pub(crate) fn is_served(&self) -> bool {
        matches!(self, Self::Live { .. } | Self::Ready { .. })
    }

    /// Whether the server was sent away.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self, Self::Leaving { .. })
    }

    /// Whether a server has given all its commands but has no disk yet, or not yet that of the
    /// last one.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// The server, if there is one.
    pub(crate) fn server(&self) -> Option<&S> {
        match self {
            Self::Closed | Self::Orphaned { .. } => None,
            Self::Deleting { server, .. } => server.as_ref(),
            Self::Fetching { server, .. }
            | Self::Ready { server, .. }
            | Self::Starting { server, .. }
            | Self::Live { server, .. }
            | Self::Leaving { server, .. }
            | Self::Stopping { server } => Some(server),
        }
    }

    /// The server, if there is one, for changes.
    pub(crate) fn server_mut(&mut self) -> Option<&mut S> {
        match self {
            Self::Closed | Self::Orphaned { .. } => None,
            Self::Deleting { server, .. } => server.as_mut(),
            Self::Fetching { server, .. }
            | Self::Ready { server, .. }
            | Self::Starting { server, .. }
            | Self::Live { server, .. }
            | Self::Leaving { server, .. }
            | Self::Stopping { server } => Some(server),
        }
    }

    /// The disk, if there is one that is not about to go.
    pub(crate) fn disk(&self) -> Option<&D> {
        match self {
            Self::Live { disk, .. } | Self::Leaving { disk, .. } | Self::Orphaned { disk } => {
                Some(disk)
            }
            Self::Fetching { orphan, .. } | Self::Ready { orphan, .. } => orphan.as_ref(),
            Self::Closed
            | Self::Starting { .. }
            | Self::Deleting { .. }
            | Self::Stopping { .. } => None,
        }
    }

    /// The disk that is being added.
    pub(crate) fn new_disk(&self) -> Option<&R> {
        match self {
            Self::Starting { disk, .. } => Some(disk),
            _ => None,
        }
    }
}

#[kunit_tests(ublk_rs_phase)]
mod tests {
    use super::*;

    type Test = DevicePhase<&'static str, u32, u32>;

    fn fetched(slots: u32) -> Test {
        let mut phase = Test::Closed;
        assert!(phase.change(Event::Open("server")).is_ok());
        for _ in 0..slots {
            assert!(phase.change(Event::Fetched { total: 2 }).is_ok());
        }
        phase
    }

    fn live() -> Test {
        let mut phase = fetched(2);
        assert!(phase.change(Event::Start(5)).is_ok());
        assert!(phase.change(Event::Started(5)).is_ok());
        phase
    }

    fn orphaned() -> Test {
        let mut phase = live();
        assert!(phase.change(Event::Orphan).is_ok());
        phase
    }

    #[test]
    fn whole_life() {
        let mut phase = fetched(2);
        assert!(phase.may_start().is_ok());
        assert_eq!(phase.report(), Report::Dead);
        assert!(phase.change(Event::Start(7)).is_ok());
        assert_eq!((phase.disk(), phase.new_disk()), (None, Some(&7)));
        assert_eq!(phase.report(), Report::Live(&"server"));
        assert!(phase.change(Event::Started(7)).is_ok());
        assert_eq!((phase.disk(), phase.new_disk()), (Some(&7), None));
        assert_eq!(phase.change(Event::Stop), Ok(Some(7)));
        assert_eq!(phase.disk(), None);
        assert_eq!(phase.report(), Report::Live(&"server"));
        assert_eq!(phase.change(Event::Close), Err(EINVAL));
        assert_eq!(phase.change(Event::Deleted), Ok(None));
        assert_eq!(phase.server(), Some(&"server"));
        assert_eq!(phase.report(), Report::Dead);
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
        assert_eq!(fetched(2).change(Event::Fetched { total: 2 }), Err(EBUSY));
        let mut phase = live();
        assert_eq!(phase.change(Event::Start(2)), Err(EEXIST));
        assert_eq!(phase.disk(), Some(&5));
    }

    #[test]
    fn start_can_fail() {
        let mut phase = fetched(2);
        assert!(phase.change(Event::Start(1)).is_ok());
        assert_eq!(phase.change(Event::StartFailed), Ok(None));
        assert!(phase.is_ready() && phase.report() == Report::Dead);
        assert!(phase.change(Event::Start(2)).is_ok());
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
    fn stop_without_anything() {
        let mut phase = Test::Closed;
        assert_eq!(phase.change(Event::Stop), Ok(None));
        assert_eq!(phase.change(Event::Deleted), Err(EINVAL));
        assert!(phase.change(Event::Open("new")).is_ok());
        assert!(phase.may_fetch().is_ok());
    }

    #[test]
    fn recovery() {
        let mut phase = live();
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
        assert_eq!(phase.change(Event::Orphan), Ok(None));
        assert!(phase.is_orphaned() && phase.server().is_none());
        assert_eq!(phase.disk(), Some(&5));
        assert_eq!(phase.report(), Report::Orphan);
        assert_eq!(phase.change(Event::Recover), Err(EINVAL));
        assert!(phase.change(Event::Open("next")).is_ok());
        assert_eq!(phase.change(Event::Recover), Err(EINVAL));
        for _ in 0..2 {
            assert!(phase.change(Event::Fetched { total: 2 }).is_ok());
        }
        assert!(phase.is_ready());
        assert_eq!(phase.report(), Report::Orphan);
        assert_eq!(phase.change(Event::Start(6)), Err(EEXIST));
        assert_eq!(phase.change(Event::Recover), Ok(None));
        assert!(phase.is_live());
        assert_eq!(phase.disk(), Some(&5));
    }

    #[test]
    fn sent_away() {
        let mut phase = live();
        assert_eq!(phase.change(Event::Leave), Ok(None));
        assert!(phase.is_leaving() && !phase.is_live());
        assert_eq!(phase.report(), Report::Live(&"server"));
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
        assert_eq!(phase.change(Event::Orphan), Ok(None));
        assert!(phase.is_orphaned());
        assert_eq!(phase.change(Event::Leave), Err(EINVAL));
    }

    #[test]
    fn nothing_to_recover() {
        let mut phase = Test::Closed;
        assert!(phase.change(Event::Open("server")).is_ok());
        assert_eq!(phase.change(Event::Recover), Err(EINVAL));
        assert!(phase.change(Event::Fetched { total: 1 }).is_ok());
        assert!(phase.is_ready());
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
    }

    #[test]
    fn death_during_recovery() {
        for slots in 0..=2 {
            let mut phase = orphaned();
            assert!(phase.change(Event::Open("next")).is_ok());
            for _ in 0..slots {
                assert!(phase.change(Event::Fetched { total: 2 }).is_ok());
            }
            assert_eq!(phase.change(Event::Orphan), Ok(None));
            assert!(phase.is_orphaned());
        }
    }

    #[test]
    fn nobody_attaches_to_a_doomed_disk() {
        let mut phase = orphaned();
        assert_eq!(phase.change(Event::Stop), Ok(Some(5)));
        assert_eq!(phase.report(), Report::Orphan);
        assert!(!phase.fetched_or_stopping());
        assert_eq!(phase.change(Event::Open("new")), Err(EBUSY));
        assert_eq!(phase.change(Event::Deleted), Ok(None));
        assert!(phase.change(Event::Open("new")).is_ok());
    }

    #[test]
    fn stop_during_recovery() {
        let mut phase = orphaned();
        assert!(phase.change(Event::Open("next")).is_ok());
        assert_eq!(phase.change(Event::Stop), Ok(Some(5)));
        assert_eq!(phase.report(), Report::Orphan);
        assert_eq!(phase.change(Event::Fetched { total: 2 }), Err(ENODEV));
        assert_eq!(phase.change(Event::Deleted), Ok(None));
        assert_eq!(phase.change(Event::Orphan), Err(EINVAL));
        assert_eq!(phase.change(Event::Recover), Err(EBUSY));
        assert_eq!(phase.change(Event::Close), Ok(None));
    }
}
