// SPDX-License-Identifier: GPL-2.0

//! One piece of task work for several commands.

use super::{
    cmd,
    handler,
    CommandHandler,
    QueuedCmd, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// Queued commands on their way to their tasks, where [`CommandHandler::task_work`] gets them in
/// the order in which they were pushed.
///
/// This does what [`QueuedCmd::complete_in_task`] does for each of them, but successive commands of
/// the same ring and task share one piece of task work. They are sent when a command of another
/// ring or task is pushed, and when the batch is dropped.
///
/// The data of such commands has at most 24 bytes, as the rest of the 32 that a command has for its
/// driver links them. Nothing is allocated. Wraps C's `io_uring_cmd_complete_in_task()`.
///
/// # Context
///
/// Any.
///
/// # Examples
///
/// ```
/// use kernel::io_uring::{
///     CommandHandler,
///     QueuedCmd,
///     TaskBatch, //
/// };
///
/// fn wake_all<H: CommandHandler>(waiting: impl Iterator<Item = QueuedCmd<H>>) {
///     let mut batch = TaskBatch::default();
///     for cmd in waiting {
///         batch.push(cmd);
///     }
///     // The last ones are sent here.
/// }
/// ```
///
/// # Invariants
///
/// If there are `ends`, then they are those of a list of commands that is linked by `cmd::link()`,
/// and whose last link is [`None`]. The list owns its commands as a [`QueuedCmd<H>`] does, and all
/// of them have the same ring and task.
pub struct TaskBatch<H: CommandHandler> {
    ends: Option<Ends>,
    _owned: PhantomData<QueuedCmd<H>>,
}

/// The first and the last command of a list.
type Ends = (
    NonNull<bindings::io_uring_cmd>,
    NonNull<bindings::io_uring_cmd>,
);

impl<H: CommandHandler> Default for TaskBatch<H> {
    /// Makes an empty batch.
    #[inline]
    fn default() -> Self {
        // INVARIANT: There are no ends.
        Self {
            ends: None,
            _owned: PhantomData,
        }
    }
}

impl<H: CommandHandler> TaskBatch<H> {
    /// Adds a command. If it is of another ring or task than those before, these are sent.
    #[inline]
    pub fn push(&mut self, cmd: QueuedCmd<H>) {
        if let Err(cmd) = self.join(cmd) {
            self.send();
            // INVARIANT: A list of one, whose link `join()` has set.
            let cmd = cmd.into_raw();
            self.ends = Some((cmd, cmd));
        }
    }

    /// Puts a command at the end, unless it is of another ring or task than those that are there.
    #[inline]
    fn join(&mut self, cmd: QueuedCmd<H>) -> Result<(), QueuedCmd<H>> {
        let last = cmd.raw();
        // SAFETY: `cmd` owns a valid command, and nobody uses the part of its private data that is
        // not `H::Data`.
        unsafe { cmd::link::<H::Data>(last).write(None) };

        let first = match self.ends {
            // SAFETY: The commands are owned, by the list and by `cmd`, thus valid.
            Some((_, before)) if !unsafe { have_same_task(before, last) } => return Err(cmd),
            Some((first, before)) => {
                // SAFETY: As above.
                unsafe { cmd::link::<H::Data>(before).write(Some(last)) };
                first
            }
            None => last,
        };
        // INVARIANT: The command is linked as the last one. It is given up by `cmd`.
        self.ends = Some((first, cmd.into_raw()));
        Ok(())
    }

    /// Sends the commands; the batch is empty then.
    #[inline]
    fn send(&mut self) {
        if let Some((first, _)) = self.ends.take() {
            // SAFETY: By the type invariants this is a list as `run_batch` wants it. It is given up
            // with the ends.
            unsafe {
                bindings::__io_uring_cmd_do_in_task(
                    first.as_ptr(),
                    Some(handler::run_batch::<H>),
                    0,
                )
            };
        }
    }
}

impl<H: CommandHandler> Drop for TaskBatch<H> {
    #[inline]
    fn drop(&mut self) {
        self.send();
    }
}

/// Whether task work of one command runs where that of the other one does.
///
/// # Safety
///
/// Both must be valid and part of a `struct io_kiocb`.
#[inline]
unsafe fn have_same_task(
    a: NonNull<bindings::io_uring_cmd>,
    b: NonNull<bindings::io_uring_cmd>,
) -> bool {
    let [a, b] = [a, b].map(|cmd| cmd.cast::<bindings::io_kiocb>().as_ptr());

    // SAFETY: The caller promises that they are valid. These fields do not change after the request
    // was prepared.
    unsafe { (*a).ctx == (*b).ctx && (*a).tctx == (*b).tctx }
}

#[cfg(CONFIG_RUST_IO_URING_KUNIT_TEST)]
#[macros::kunit_tests(rust_io_uring_batch)]
mod tests {
    use super::*;
    use crate::{
        io_uring::{
            IssueFlags,
            IssuedCmd,
            Outcome, //
        },
        prelude::*, //
    };

    type Batch = TaskBatch<Handler>;

    /// Its commands have data of the largest size.
    struct Handler;

    impl CommandHandler for Handler {
        type Ptr = ();
        type Data = [u64; 3];

        fn issue<'a>(_dev: (), cmd: IssuedCmd<'a, Self>, _flags: IssueFlags<'a>) -> Outcome<'a> {
            cmd.complete(Ok(0))
        }
    }

    /// Requests that were never in a ring.
    struct Requests(KVec<KBox<bindings::io_kiocb>>);

    impl Requests {
        /// Makes one for each ring and task, which are numbers in the place of addresses.
        fn new(of: &[(usize, usize)]) -> Result<Self> {
            let mut requests = KVec::new();
            for &(ring, task) in of {
                let mut req: KBox<bindings::io_kiocb> =
                    KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
                req.ctx = core::ptr::without_provenance_mut(ring);
                req.tctx = core::ptr::without_provenance_mut(task);
                requests.push(req, GFP_KERNEL)?;
            }
            Ok(Self(requests))
        }

        fn cmd(&mut self, i: usize) -> NonNull<bindings::io_uring_cmd> {
            NonNull::from(&mut *self.0[i]).cast()
        }

        /// Puts the request into the batch; returns whether it joined.
        fn join(&mut self, i: usize, batch: &mut Batch) -> bool {
            let cmd = self.cmd(i);
            // SAFETY: The command is ours.
            unsafe { cmd::pdu::<[u64; 3]>(cmd).write([i as u64; 3]) };
            // SAFETY: The data was just written. The test gives up the command, as it does the
            // batch, so that nobody completes it.
            match batch.join(unsafe { QueuedCmd::from_raw(cmd) }) {
                Ok(()) => true,
                Err(cmd) => {
                    cmd.into_raw();
                    false
                }
            }
        }
    }

    /// Empties the batch; returns the numbers of its commands.
    fn numbers(batch: &mut Batch) -> Result<KVec<u64>> {
        let mut numbers = KVec::new();
        let mut next = batch.ends.take().map(|(first, _)| first);
        while let Some(cmd) = next {
            // SAFETY: The commands are still there, and `Requests::join` wrote their data.
            unsafe {
                numbers.push((*cmd::pdu::<[u64; 3]>(cmd))[2], GFP_KERNEL)?;
                next = cmd::link::<[u64; 3]>(cmd).read();
            }
        }
        Ok(numbers)
    }

    #[test]
    fn order_is_kept() -> Result {
        let mut requests = Requests::new(&[(1, 2); 4])?;
        let mut batch = Batch::default();
        for i in [2, 0, 3, 1] {
            assert!(requests.join(i, &mut batch));
        }
        assert_eq!(&numbers(&mut batch)?[..], &[2, 0, 3, 1]);
        // What was last in a batch is first in the next one.
        assert!(requests.join(1, &mut batch) && requests.join(2, &mut batch));
        assert_eq!(&numbers(&mut batch)?[..], &[1, 2]);
        assert!(numbers(&mut batch)?.is_empty());
        Ok(())
    }

    #[test]
    fn others_do_not_join() -> Result {
        let mut requests = Requests::new(&[(1, 2), (1, 3), (4, 2), (1, 2)])?;
        let mut batch = Batch::default();
        assert!(requests.join(0, &mut batch));
        assert!(!requests.join(1, &mut batch));
        assert!(!requests.join(2, &mut batch));
        assert!(requests.join(3, &mut batch));
        assert_eq!(&numbers(&mut batch)?[..], &[0, 3]);
        Ok(())
    }
}
