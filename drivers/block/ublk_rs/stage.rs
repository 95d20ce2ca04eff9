// SPDX-License-Identifier: GPL-2.0

//! The stages of one I/O in a slot, and the changes between them that are possible.
//!
//! A slot holds either the server's command, which waits for a request, or the request that the
//! server works on:
//!
//! ```text
//!           fetch             dispatch                start          hand_to_server
//!      Idle -------> Active -------------> Dispatching ------> Starting -----> Owned
//!                    ^  ^ | cancel                            ^ |  | |          | |
//!                    |  | +---> Canceled <--------- give_up --|-+  | | ask      | | abort
//!                    |  +-------------------------- put_back -|----+ +-> Asked  | +--> Canceled
//!                    |                                        +- answer --+ |   |
//!                    |                                              abort <-+   |
//!                    +--------------------------------------------- commit -----+
//! ```
//!
//! If the task of the command is dying, `desert` takes a request that is Dispatching out of its
//! slot, which is Canceled then. And a slot that is Active gets Refusing: its command waits for
//! nothing but to be canceled.
//!
//! A request may be Owned before its data is registered. If that fails, `commit` takes it back from
//! there, with the same command, or `commit_shared`: the server was not told yet.
//!
//! The server of a device with `UBLK_F_NEED_GET_DATA` is asked for a buffer before it gets a write;
//! its answer is `UBLK_IO_NEED_GET_DATA`.
//!
//! With `UBLK_F_BATCH_IO` a slot has no command of its own. The tag of a request that is
//! Dispatching waits in a queue, until one of the server's commands tells it and others:
//!
//! ```text
//!           prepare            dispatch                start          hand_to_server
//!      Idle <------> Prepared -------------> Dispatching ------> Starting -----> Owned
//!          unprepare ^ ^  ^  <-- withdraw ---- | ^                  |            | | |
//!                    | |  +---------- put_back_shared --------------+            | | | abort
//!                    | |                       | +------ not_told ---------------+ | |
//!                    | |                       +-- desert --------------> Canceled <-+
//!                    +-+-------------------------- commit_shared ------------------+
//! ```
//!
//! All slots are Idle again once the server has closed its character device.

use core::mem;
use kernel::prelude::*;

/// The stages of an I/O, with what each of them owns: `C` is a command, `R` is a reference to a
/// request.
pub(crate) enum Stage<C, R> {
    /// The server has not given a command.
    Idle,
    /// The command waits for a request.
    Active(C),
    /// The server waits for a request, with commands that are not this slot's.
    Prepared,
    /// The request waits for the task of the command, which is on its way.
    Dispatching(R),
    /// That task has the command and the request and is about to hand the request to the server.
    Starting,
    /// The server was asked for a buffer for the data of the request.
    Asked(R),
    /// The server works on the request.
    Owned(R),
    /// The command is still there, but its task is dying: it gets no request.
    Refusing(C),
    /// The command was canceled; the server can not use this slot any more.
    Canceled,
}

/// What is to be done with a request that was given to a slot.
#[derive(Debug, PartialEq)]
pub(crate) enum Dispatched<C, R> {
    /// This command has to be sent to its task.
    Send(C),
    /// The server has to be told the tag.
    Enqueue,
    /// The slot does not take it.
    Refused(R),
}

impl<C, R> Stage<C, R> {
    /// Idle to Active. Only for a slot that [`Self::is_idle`].
    pub(crate) fn fetch(&mut self, cmd: C) {
        debug_assert!(self.is_idle());
        *self = Self::Active(cmd);
    }

    /// Idle to Prepared. Only for a slot that [`Self::is_idle`].
    pub(crate) fn prepare(&mut self) {
        debug_assert!(self.is_idle());
        *self = Self::Prepared;
    }

    /// Prepared to Idle: it was in vain.
    pub(crate) fn unprepare(&mut self) {
        if let Self::Prepared = self {
            *self = Self::Idle;
        }
    }

    /// Active or Prepared to Dispatching; returns the command to send to its task, if there is one.
    /// In another stage, the request is given back.
    #[inline(always)]
    pub(crate) fn dispatch(&mut self, rq: R) -> Dispatched<C, R> {
        if !matches!(self, Self::Active(_)) {
            return match self {
                Self::Prepared => {
                    // Nothing is dropped.
                    mem::forget(mem::replace(self, Self::Dispatching(rq)));
                    Dispatched::Enqueue
                }
                _ => Dispatched::Refused(rq),
            };
        }
        match mem::replace(self, Self::Dispatching(rq)) {
            Self::Active(cmd) => Dispatched::Send(cmd),
            // It was looked at just now.
            other => {
                other.misplaced();
                Dispatched::Enqueue
            }
        }
    }

    /// Dispatching to Prepared: no command will tell the server. Returns the request.
    pub(crate) fn withdraw(&mut self) -> Option<R> {
        match mem::replace(self, Self::Prepared) {
            Self::Dispatching(rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Dispatching to Starting; returns the request.
    #[inline(always)]
    pub(crate) fn start(&mut self) -> Option<R> {
        match mem::replace(self, Self::Starting) {
            Self::Dispatching(rq) => Some(rq),
            other => {
                self.leave_starting(other);
                None
            }
        }
    }

    /// Starting to any other stage. As it owns nothing, nothing is dropped.
    // The compiler inlines none of the changes that each request makes by itself, as they have
    // several callers; inlined, most of their checks go.
    #[inline(always)]
    fn leave_starting(&mut self, next: Self) {
        match mem::replace(self, next) {
            // Else the compiler calls a function to drop it: 10 instructions.
            old @ Self::Starting => mem::forget(old),
            other => other.misplaced(),
        }
    }

    /// A change was asked for in a stage in which it makes no sense: what that stage owned is
    /// dropped, which completes a command and ends a request with an error.
    #[cold]
    #[inline(never)]
    fn misplaced(self) {
        debug_assert!(false);
    }

    /// Starting to Owned: the server gets the request.
    #[inline(always)]
    pub(crate) fn hand_to_server(&mut self, rq: R) {
        self.leave_starting(Self::Owned(rq));
    }

    /// Starting to Asked: the server is asked for a buffer.
    pub(crate) fn ask(&mut self, rq: R) {
        self.leave_starting(Self::Asked(rq));
    }

    /// Asked to Starting: the server gave a buffer. Returns the request.
    pub(crate) fn answer(&mut self) -> Option<R> {
        match mem::replace(self, Self::Starting) {
            Self::Asked(rq) => Some(rq),
            other => {
                self.leave_starting(other);
                None
            }
        }
    }

    /// Starting to Active: the request goes back to the block layer, the command waits again.
    pub(crate) fn put_back(&mut self, cmd: C) {
        self.leave_starting(Self::Active(cmd));
    }

    /// Starting to Prepared: the request goes back to the block layer.
    pub(crate) fn put_back_shared(&mut self) {
        self.leave_starting(Self::Prepared);
    }

    /// Owned to Dispatching: the server could not be told. Returns whether it was Owned.
    pub(crate) fn not_told(&mut self) -> bool {
        match mem::replace(self, Self::Starting) {
            Self::Owned(rq) => {
                self.leave_starting(Self::Dispatching(rq));
                true
            }
            other => {
                self.leave_starting(other);
                false
            }
        }
    }

    /// Starting to Canceled: the task can not handle the request.
    pub(crate) fn give_up(&mut self) {
        self.leave_starting(Self::Canceled);
    }

    /// Owned to Active: the server gives the request back together with its next command, or it is
    /// taken from it, with the command that was to tell it. Only for a slot that has an
    /// [`Self::owned`] request, which is returned.
    #[inline(always)]
    pub(crate) fn commit(&mut self, cmd: C) -> Option<R> {
        match mem::replace(self, Self::Active(cmd)) {
            Self::Owned(rq) => Some(rq),
            other => {
                other.misplaced();
                None
            }
        }
    }

    /// Owned to Prepared: the server gives the request back, or it is taken from it, and it waits
    /// for the next one.
    pub(crate) fn commit_shared(&mut self) -> Option<R> {
        match mem::replace(self, Self::Prepared) {
            Self::Owned(rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Active or Refusing to Canceled; returns the command.
    pub(crate) fn cancel(&mut self) -> Option<C> {
        match mem::replace(self, Self::Canceled) {
            Self::Active(cmd) | Self::Refusing(cmd) => Some(cmd),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Active to Refusing, Prepared to Canceled: nobody will serve a request any more.
    pub(crate) fn refuse(&mut self) {
        *self = match mem::replace(self, Self::Canceled) {
            Self::Active(cmd) => Self::Refusing(cmd),
            Self::Prepared => Self::Canceled,
            other => other,
        };
    }

    /// Owned or Asked to Canceled: the server is gone; returns the request.
    pub(crate) fn abort(&mut self) -> Option<R> {
        match mem::replace(self, Self::Canceled) {
            Self::Owned(rq) | Self::Asked(rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Dispatching to Canceled: nobody will tell the server. Returns the request.
    pub(crate) fn desert(&mut self) -> Option<R> {
        match mem::replace(self, Self::Canceled) {
            Self::Dispatching(rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Dispatching, Asked or Owned to Canceled, if `is_it` says so of the request, which is
    /// returned.
    pub(crate) fn take_out(&mut self, is_it: impl Fn(&R) -> bool) -> Option<R> {
        match mem::replace(self, Self::Canceled) {
            Self::Dispatching(rq) | Self::Asked(rq) | Self::Owned(rq) if is_it(&rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Any stage to Idle, for the next server. Returns what the slot still owned, which is nothing
    /// once the server's file is closed and its requests are aborted.
    pub(crate) fn reset(&mut self) -> Self {
        mem::replace(self, Self::Idle)
    }

    /// How many stages there are.
    pub(crate) const COUNT: usize = 9;

    /// The stage, and the request that it owns.
    pub(crate) fn describe(&self) -> (&'static str, Option<&R>) {
        match self {
            Self::Idle => ("Idle", None),
            Self::Active(_) => ("Active", None),
            Self::Prepared => ("Prepared", None),
            Self::Dispatching(rq) => ("Dispatching", Some(rq)),
            Self::Starting => ("Starting", None),
            Self::Asked(rq) => ("Asked", Some(rq)),
            Self::Owned(rq) => ("Owned", Some(rq)),
            Self::Refusing(_) => ("Refusing", None),
            Self::Canceled => ("Canceled", None),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// The request that the server works on.
    pub(crate) fn owned(&self) -> Option<&R> {
        match self {
            Self::Owned(rq) => Some(rq),
            Self::Idle
            | Self::Active(_)
            | Self::Prepared
            | Self::Dispatching(_)
            | Self::Starting
            | Self::Asked(_)
            | Self::Refusing(_)
            | Self::Canceled => None,
        }
    }

    pub(crate) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked(_))
    }

    pub(crate) fn is_dispatching(&self) -> bool {
        matches!(self, Self::Dispatching(_))
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self, Self::Active(_))
    }

    /// Whether no request is accepted any more.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self, Self::Refusing(_) | Self::Canceled)
    }
}

#[kunit_tests(ublk_rs_stage)]
mod tests {
    use super::*;

    type Test = Stage<&'static str, u32>;

    #[test]
    fn one_request() {
        let mut stage = Test::Idle;
        assert_eq!(stage.dispatch(1), Dispatched::Refused(1));
        stage.fetch("fetch");
        assert_eq!(stage.dispatch(1), Dispatched::Send("fetch"));
        assert_eq!(stage.dispatch(2), Dispatched::Refused(2));
        assert!(stage.owned().is_none());
        assert_eq!(stage.start(), Some(1));
        assert_eq!(stage.start(), None);
        stage.hand_to_server(1);
        assert_eq!(stage.owned(), Some(&1));
        assert_eq!(stage.commit("commit"), Some(1));
        assert_eq!(stage.dispatch(3), Dispatched::Send("commit"));
    }

    #[test]
    fn cancel_takes_waiting_command_only() {
        let mut stage = Test::Active("fetch");
        assert_eq!(stage.cancel(), Some("fetch"));
        assert_eq!(stage.cancel(), None);
        assert_eq!(stage.dispatch(1), Dispatched::Refused(1));
        assert!(!stage.is_idle());
        for mut stage in [
            Test::Dispatching(1),
            Test::Starting,
            Test::Owned(1),
            Test::Idle,
        ] {
            assert_eq!(stage.cancel(), None);
            assert!(!matches!(stage, Test::Canceled));
        }
    }

    #[test]
    fn abort_takes_owned_request_only() {
        let mut stage = Test::Owned(4);
        assert_eq!(stage.abort(), Some(4));
        assert_eq!(stage.abort(), None);
        let mut stage = Test::Active("cmd");
        assert_eq!(stage.abort(), None);
        assert_eq!(stage.cancel(), Some("cmd"));
        stage.reset();
        assert!(stage.is_idle());
    }

    #[test]
    fn start_can_fail() {
        let mut stage = Test::Dispatching(1);
        assert_eq!(stage.start(), Some(1));
        stage.put_back("cmd");
        assert_eq!(stage.dispatch(1), Dispatched::Send("cmd"));
        assert_eq!(stage.start(), Some(1));
        stage.give_up();
        assert_eq!(stage.dispatch(2), Dispatched::Refused(2));
    }

    #[test]
    fn server_is_asked() {
        let mut stage = Test::Dispatching(1);
        assert_eq!(stage.start(), Some(1));
        stage.ask(1);
        assert!(stage.is_asked() && stage.owned().is_none());
        assert_eq!(stage.cancel(), None);
        assert_eq!(stage.answer(), Some(1));
        assert_eq!(stage.answer(), None);
        stage.hand_to_server(1);
        assert_eq!(stage.answer(), None);
        let mut stage = Test::Asked(2);
        assert_eq!(stage.abort(), Some(2));
    }
    #[test]
    fn without_command() {
        let mut stage = Test::Idle;
        stage.prepare();
        assert_eq!(stage.cancel(), None);
        assert_eq!(stage.abort(), None);
        assert_eq!(stage.dispatch(1), Dispatched::Enqueue);
        assert_eq!(stage.dispatch(2), Dispatched::Refused(2));
        assert_eq!(stage.withdraw(), Some(1));
        assert_eq!(stage.withdraw(), None);
        assert_eq!(stage.dispatch(3), Dispatched::Enqueue);
        assert_eq!(stage.start(), Some(3));
        stage.hand_to_server(3);
        assert!(stage.not_told());
        assert!(!stage.not_told());
        assert_eq!(stage.commit_shared(), None);
        assert_eq!(stage.start(), Some(3));
        stage.put_back_shared();
        assert_eq!(stage.dispatch(4), Dispatched::Enqueue);
        assert_eq!(stage.start(), Some(4));
        stage.hand_to_server(4);
        assert_eq!(stage.commit_shared(), Some(4));
        assert!(!stage.not_told());
        stage.unprepare();
        assert!(stage.is_idle());
    }

    #[test]
    fn take_out_takes_what_is_meant() {
        for mut stage in [Test::Dispatching(1), Test::Asked(1), Test::Owned(1)] {
            assert_eq!(stage.take_out(|rq| *rq != 1), None);
            assert!(!stage.is_given_up());
            assert_eq!(stage.take_out(|rq| *rq == 1), Some(1));
            assert!(stage.is_given_up());
        }
        let mut stage = Test::Active("cmd");
        assert_eq!(stage.take_out(|_| true), None);
        assert_eq!(stage.cancel(), Some("cmd"));
    }

    #[test]
    fn desert_takes_what_waits() {
        let mut stage = Test::Dispatching(1);
        assert_eq!(stage.desert(), Some(1));
        assert_eq!(stage.start(), None);
        assert_eq!(stage.withdraw(), None);
        assert!(stage.is_given_up());
        for mut stage in [Test::Prepared, Test::Owned(1), Test::Active("cmd")] {
            assert_eq!(stage.desert(), None);
            assert!(!stage.is_given_up());
        }
    }

    #[test]
    fn refusing_keeps_command() {
        let mut stage = Test::Active("cmd");
        stage.refuse();
        assert!(stage.is_given_up() && !stage.is_idle() && !stage.is_active());
        assert_eq!(stage.dispatch(1), Dispatched::Refused(1));
        stage.refuse();
        assert_eq!(stage.cancel(), Some("cmd"));
        let mut stage = Test::Prepared;
        stage.refuse();
        assert_eq!(stage.dispatch(1), Dispatched::Refused(1));
        for mut stage in [Test::Idle, Test::Dispatching(1), Test::Owned(1)] {
            stage.refuse();
            assert!(!stage.is_given_up());
        }
    }
}
