// SPDX-License-Identifier: GPL-2.0

//! With `UBLK_F_BATCH_IO`: the tags that the server of a queue is to be told, and the commands to
//! tell it with.
//!
//! A command of the server, `UBLK_U_IO_FETCH_IO_CMDS`, tells it many tags at once, and again and
//! again. Of the commands of a queue only one is telling at a time, in its own task: that for which
//! the tags are meant, in the order in which they came. It is the oldest one; the others wait until
//! that has ended, because its buffers ran out for instance, or its process is dying.
//!
//! ```text
//!               attach              kick                  park
//!   (no command) ---> waiting <--------------> telling ------+
//!                        ^  |                    |  ^        |
//!                        |  | cancel, close      |  | kick   |
//!                        |  v                    v  |        |
//!                        | (ended) <--- retire --+  |        |
//!                        +--------------------------+--------+
//! ```
//!
//! The queue is closed when the server is sent away, or when its last command was canceled because
//! the ring or the task went away. Then no command is taken any more, and no tag; whoever closed
//! it, or was telling at that time, gives the requests back that nobody was told of. It opens again
//! for the next server.

use crate::types::{
    FetchCommand,
    FetchId, //
};
use core::iter;
use kernel::{
    array_vec::ArrayVec,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock,
        Arc,
        SpinLock, //
    },
    task::Task, //
};

/// How many commands are looked at for one whose process is not dying.
const SEEN: usize = 64;

/// Most tags in one CQE.
const MAX_TAGS: usize = 128;

/// Tags that the server is about to be told of.
pub(crate) type Tags = ArrayVec<u16, MAX_TAGS>;

/// Tags in the order in which they came. Each is there once at most.
struct TagRing {
    /// A place for each tag of the queue.
    places: KVVec<u16>,
    first: usize,
    len: usize,
}

impl TagRing {
    fn new(depth: u16) -> Result<Self> {
        Ok(Self {
            places: KVVec::from_elem(0, depth.into(), GFP_KERNEL)?,
            first: 0,
            len: 0,
        })
    }

    /// The place `n` behind the first one, for `n` below twice the number of places.
    fn place(&mut self, n: usize) -> Option<&mut u16> {
        let at = self.first + n;
        let depth = self.places.len();

        self.places
            .get_mut(if at < depth { at } else { at - depth })
    }

    fn push(&mut self, tag: u16) {
        if let Some(place) = self.place(self.len) {
            *place = tag;
            self.len += 1;
        }
    }

    /// Puts a tag in front of all others.
    fn push_front(&mut self, tag: u16) {
        self.first = self.first.checked_sub(1).unwrap_or(self.places.len() - 1);
        if let Some(place) = self.place(0) {
            *place = tag;
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<u16> {
        self.len = self.len.checked_sub(1)?;
        let tag = *self.place(0)?;
        self.first += 1;
        if self.first == self.places.len() {
            self.first = 0;
        }
        Some(tag)
    }
}

/// A command that can tell the server, from its own task. A trait for the sake of the tests, which
/// have no ring.
pub(crate) trait Tells: Unpin {
    /// Sends the command to its task, to tell there.
    fn send(self);
}

impl Tells for FetchCommand {
    fn send(self) {
        self.complete_in_task();
    }
}

/// What is kept for a command.
pub(crate) struct Entry<C> {
    /// Not there while it is telling.
    cmd: Option<C>,
    /// The process that sent it.
    sender: ARef<Task>,
}

/// What the lock of a queue guards.
struct State<C> {
    tags: TagRing,
    /// The server's commands, the oldest one first.
    commands: RBTree<FetchId, Entry<C>>,
    /// How many there are: they may be too many to be counted under the lock.
    nr_commands: usize,
    /// The command that is telling, or on its way to its task to do so.
    telling: Option<FetchId>,
    closed: bool,
}

impl<C> State<C> {
    /// Takes the entry of a command out, to be dropped without the lock.
    fn remove(&mut self, id: &FetchId) -> Option<RBTreeNode<FetchId, Entry<C>>> {
        let entry = self.commands.remove_node(id)?;
        self.nr_commands -= 1;
        Some(entry)
    }

    /// Takes the command that is to tell the server of what is there, if one is needed. Of what is
    /// in a closed queue nobody is told any more.
    fn next_to_tell(&mut self) -> Option<C> {
        if self.closed || self.telling.is_some() || self.tags.len == 0 {
            return None;
        }
        let mut oldest = self.commands.cursor_front_mut()?;
        let (id, entry) = oldest.current_mut();
        // As a rule it is this one, which needs not be looked up.
        if !entry.sender.is_group_dying() {
            let cmd = entry.cmd.take()?;
            self.telling = Some(*id);
            return Some(cmd);
        }
        let id = self.chosen()?;
        let cmd = self.commands.get_mut(&id)?.cmd.take()?;
        self.telling = Some(id);
        Some(cmd)
    }

    /// The command that is to tell the server: the oldest one. If its process is dying, it may
    /// never run again; then it is another one whose process is not, if there is one among the
    /// first [`SEEN`] and the youngest. There may be too many to look at all under the lock.
    fn chosen(&self) -> Option<FetchId> {
        let oldest = self.commands.cursor_front()?;
        let youngest = self.commands.cursor_back()?;
        let first = self.commands.iter().take(SEEN);
        let living = Iterator::chain(first, iter::once(youngest.current()))
            .find(|(_, entry)| !entry.sender.is_group_dying());
        Some(*living.unwrap_or_else(|| oldest.current()).0)
    }

    /// What is kept for the command that is telling, or else that would have to.
    fn teller(&self) -> Option<&Entry<C>> {
        let id = self.telling.or_else(|| self.chosen())?;
        self.commands.get(&id)
    }
}

/// Room for a command in a [`BatchQueue`].
pub(crate) type Room<C = FetchCommand> = RBTreeNodeReservation<FetchId, Entry<C>>;

/// The tags and the commands of one queue. Its lock is a leaf.
#[pin_data]
pub(crate) struct BatchQueue<C: Tells = FetchCommand> {
    #[pin]
    state: SpinLock<State<C>>,
    /// That of the next command. Atomic, as it is needed before the command is there; it only
    /// counts.
    next_id: Atomic<u64>,
}

impl<C: Tells> BatchQueue<C> {
    /// Makes a queue of `depth` tags, without any command.
    pub(crate) fn new(depth: u16) -> Result<Arc<Self>> {
        let state = State {
            tags: TagRing::new(depth)?,
            commands: RBTree::new(),
            nr_commands: 0,
            telling: None,
            closed: false,
        };
        Arc::pin_init(
            pin_init!(Self {
                state <- new_spinlock!(state, "ublk_rs::BatchQueue::state"),
                next_id: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// The identity for a new command.
    pub(crate) fn new_id(&self) -> FetchId {
        FetchId(self.next_id.fetch_add(1, Relaxed))
    }

    /// Room for a command. A server may ask for it while its disk has requests.
    pub(crate) fn new_room() -> Result<Room<C>> {
        Room::new(GFP_NOIO)
    }

    /// Takes a command of the current process, which is sent to its task if there is something to
    /// tell. It is returned if the queue is closed.
    pub(crate) fn attach(&self, id: FetchId, cmd: C, room: Room<C>) -> Result<(), C> {
        let sender = ARef::from(current!().group_leader());
        let next = {
            let mut state = self.state.lock();
            if state.closed {
                drop(state);
                return Err(cmd);
            }
            let cmd = Some(cmd);
            state
                .commands
                .insert(room.into_node(id, Entry { cmd, sender }));
            state.nr_commands += 1;
            state.next_to_tell()
        };
        if let Some(cmd) = next {
            cmd.send();
        }
        Ok(())
    }

    /// Adds the tag of a request.
    // As it is inlined, nothing is left of the decision when to tell.
    #[inline(always)]
    pub(crate) fn push(&self, tag: u16, tell: Tell) -> Pushed<'_, C> {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::Closed;
        }
        state.tags.push(tag);
        // A second lock for each request would cost it 30 instructions.
        if state.telling.is_some() {
            return Pushed::Seen;
        }
        match tell {
            Tell::WhenKicked => Pushed::ToKick(self),
            Tell::Now => state.next_to_tell().map_or(Pushed::Seen, Pushed::ToSend),
        }
    }

    /// Sends a command to its task, if there is something to tell, and none is telling.
    pub(crate) fn kick(&self) {
        let next = self.state.lock().next_to_tell();
        if let Some(cmd) = next {
            cmd.send();
        }
    }

    /// Takes at most `room` tags for the command that is telling; returns whether there are more.
    pub(crate) fn take(&self, tags: &mut Tags, room: usize) -> bool {
        tags.clear();
        let mut state = self.state.lock();
        for _ in 0..room.min(MAX_TAGS) {
            let Some(tag) = state.tags.pop() else {
                break;
            };
            // There is room for so many.
            let _ = tags.push(tag);
        }
        state.tags.len > 0
    }

    /// Puts the tags back that the command that was telling could not tell.
    pub(crate) fn give_back(&self, tags: &[u16]) {
        let mut state = self.state.lock();
        for tag in tags.iter().rev() {
            state.tags.push_front(*tag);
        }
    }

    /// The command that was telling waits again. It is returned if the queue is closed; then
    /// the requests that are left have to be given back.
    pub(crate) fn park(&self, id: FetchId, cmd: C) -> Result<(), C> {
        let next = {
            let mut state = self.state.lock();
            state.telling = None;
            if state.closed {
                let entry = state.remove(&id);
                drop(state);
                drop(entry);
                return Err(cmd);
            }
            match state.commands.get_mut(&id) {
                Some(entry) => entry.cmd = Some(cmd),
                // It was attached, and nobody else removes the one that is telling.
                None => {
                    drop(state);
                    return Err(cmd);
                }
            }
            state.next_to_tell()
        };
        if let Some(cmd) = next {
            cmd.send();
        }
        Ok(())
    }

    /// The command that was telling has ended, and another one tells the rest. If `gone`, then its
    /// task or ring goes away; the queue is closed if it was the last one.
    pub(crate) fn retire(&self, id: FetchId, gone: bool) {
        let (entry, next) = {
            let mut state = self.state.lock();
            let entry = state.remove(&id);
            state.telling = None;
            if gone && state.commands.is_empty() {
                state.closed = true;
            }
            (entry, state.next_to_tell())
        };
        // Outside of the lock.
        drop(entry);
        if let Some(cmd) = next {
            cmd.send();
        }
    }

    /// Takes a command out whose task or ring goes away, if it waits. The queue is closed if it was
    /// the last one.
    pub(crate) fn cancel(&self, id: FetchId) -> Option<C> {
        let (cmd, entry) = {
            let mut state = self.state.lock();
            let cmd = state.commands.get_mut(&id)?.cmd.take()?;
            let entry = state.remove(&id);
            if state.commands.is_empty() {
                state.closed = true;
            }
            (cmd, entry)
        };
        drop(entry);
        Some(cmd)
    }

    /// Closes the queue. All commands that wait have to be taken out then, and the tags.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Takes a command out of a queue that is closed.
    pub(crate) fn take_waiting(&self) -> Option<C> {
        let (cmd, entry) = {
            let mut state = self.state.lock();
            if !state.closed {
                return None;
            }
            let (id, cmd) = state
                .commands
                .iter_mut()
                .find_map(|(id, entry)| Some((*id, entry.cmd.take()?)))?;
            (cmd, state.remove(&id))
        };
        drop(entry);
        Some(cmd)
    }

    /// Takes a tag out of a queue that is closed, if no command will tell it any more.
    pub(crate) fn take_untold(&self) -> Option<u16> {
        let mut state = self.state.lock();
        if !state.closed || state.telling.is_some() {
            return None;
        }
        state.tags.pop()
    }

    /// Who will tell the server of what is there.
    pub(crate) fn teller(&self) -> Teller {
        let state = self.state.lock();
        match state.teller() {
            Some(entry) if !state.closed && entry.sender.is_group_dying() => Teller::Dying,
            Some(_) if !state.closed => Teller::Living,
            _ => Teller::Nobody,
        }
    }

    /// The process that is to tell the server of what is there, if there is one.
    pub(crate) fn telling_process(&self) -> Option<ARef<Task>> {
        let state = self.state.lock();
        Some(state.teller()?.sender.clone())
    }

    /// Opens the queue for the next server. There must be no command, and no request on its way.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        state.tags.len = 0;
        state.closed = false;
    }

    /// How many tags there are, how many commands, and whether one of these is telling.
    pub(crate) fn snapshot(&self) -> (usize, usize, bool) {
        let state = self.state.lock();
        (state.tags.len, state.nr_commands, state.telling.is_some())
    }
}

/// Who will tell the server of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Teller {
    /// There is no command yet, or no more.
    Nobody,
    /// A process that may never run again.
    Dying,
    Living,
}

/// When a command is taken out that is to tell the server of a tag, if one is needed.
#[derive(Clone, Copy)]
pub(crate) enum Tell {
    Now,
    /// When the queue is kicked, as there are more tags to come.
    WhenKicked,
}

/// What has to follow when a tag was added to a queue.
pub(crate) enum Pushed<'a, C: Tells = FetchCommand> {
    /// It was not, as the queue is closed.
    Closed,
    /// Nothing: a command is telling, which takes the tag, or looks for what there is when it ends
    /// or waits again; or there is none yet.
    Seen,
    /// [`Tells::send`].
    ToSend(C),
    /// [`BatchQueue::kick`].
    ToKick(&'a BatchQueue<C>),
}

/// A tag whose requests the server is told of by a [`BatchQueue`].
pub(crate) struct QueuedTag {
    queue: Arc<BatchQueue>,
    tag: u16,
}

impl QueuedTag {
    pub(crate) fn new(queue: Arc<BatchQueue>, tag: u16) -> Self {
        Self { queue, tag }
    }

    /// Adds the tag to the queue: see [`BatchQueue::push`].
    #[inline(always)]
    pub(crate) fn push(&self, tell: Tell) -> Pushed<'_> {
        self.queue.push(self.tag, tell)
    }

    /// As [`BatchQueue::teller`].
    pub(crate) fn teller(&self) -> Teller {
        self.queue.teller()
    }

    /// As [`BatchQueue::telling_process`].
    pub(crate) fn telling_process(&self) -> Option<ARef<Task>> {
        self.queue.telling_process()
    }
}

#[kunit_tests(ublk_rs_batch_queue)]
mod tests {
    use super::*;

    /// Returns whether the queue took the tag.
    fn push<C: Tells>(queue: &BatchQueue<C>, tag: u16) -> bool {
        !matches!(queue.push(tag, Tell::WhenKicked), Pushed::Closed)
    }

    /// Returns how many tags were taken, and whether there are more.
    fn take<C: Tells>(queue: &BatchQueue<C>, room: usize) -> (usize, bool) {
        let mut tags = Tags::new();
        let more = queue.take(&mut tags, room);
        (tags.len(), more)
    }

    #[test]
    fn tags_keep_their_order() -> Result {
        let mut tags = TagRing::new(3)?;
        assert_eq!(tags.pop(), None);
        for round in 0..7 {
            tags.push(round);
            tags.push(round + 1);
            assert_eq!(tags.pop(), Some(round));
            tags.push_front(round);
            tags.push(round + 2);
            assert_eq!(tags.len, 3);
            assert_eq!(tags.pop(), Some(round));
            assert_eq!(tags.pop(), Some(round + 1));
            assert_eq!(tags.pop(), Some(round + 2));
            assert_eq!(tags.pop(), None);
        }
        Ok(())
    }

    /// A command that notes how often it was sent.
    #[derive(Clone)]
    struct Noted(Arc<Atomic<u32>>);

    impl Noted {
        fn new() -> Result<Self> {
            Ok(Self(Arc::new(Atomic::new(0), GFP_KERNEL)?))
        }

        fn times_sent(&self) -> u32 {
            self.0.load(Relaxed)
        }
    }

    impl Tells for Noted {
        fn send(self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    type TestQueue = BatchQueue<Noted>;

    fn attach(queue: &TestQueue) -> Result<(FetchId, Noted)> {
        let (id, cmd) = (queue.new_id(), Noted::new()?);
        queue
            .attach(id, cmd.clone(), TestQueue::new_room()?)
            .map_err(|_| ENODEV)?;
        Ok((id, cmd))
    }

    #[test]
    fn one_command_tells_at_a_time() -> Result {
        let queue = TestQueue::new(4)?;
        let (first_id, first) = attach(&queue)?;
        let (second_id, second) = attach(&queue)?;
        queue.kick();
        assert_eq!((first.times_sent(), second.times_sent()), (0, 0));
        assert!(push(&queue, 0));
        queue.kick();
        queue.kick();
        assert_eq!((first.times_sent(), second.times_sent()), (1, 0));
        assert_eq!(queue.snapshot(), (1, 2, true));
        // It will look for more when it is done.
        assert!(matches!(queue.push(1, Tell::WhenKicked), Pushed::Seen));
        assert_eq!(take(&queue, 1), (1, true));
        // It can't be canceled while it tells, and is the next one to tell what is left.
        assert!(queue.cancel(first_id).is_none());
        assert!(queue.park(first_id, first.clone()).is_ok());
        assert_eq!((first.times_sent(), second.times_sent()), (2, 0));
        // It ends, and the other one goes on.
        queue.retire(first_id, false);
        assert_eq!((first.times_sent(), second.times_sent()), (2, 1));
        assert_eq!(take(&queue, 4), (1, false));
        assert!(queue.park(second_id, second.clone()).is_ok());
        assert_eq!(second.times_sent(), 1);
        assert!(queue.cancel(second_id).is_some());
        Ok(())
    }

    #[test]
    fn one_request_takes_the_command() -> Result {
        let queue = TestQueue::new(4)?;
        assert!(matches!(queue.push(0, Tell::Now), Pushed::Seen));
        // It is told of what is there already.
        let (id, cmd) = attach(&queue)?;
        assert_eq!(cmd.times_sent(), 1);
        assert!(matches!(queue.push(1, Tell::Now), Pushed::Seen));
        assert_eq!(take(&queue, 4), (2, false));
        assert!(queue.park(id, cmd).is_ok());
        assert!(matches!(queue.push(2, Tell::Now), Pushed::ToSend(_)));
        assert!(matches!(queue.push(3, Tell::Now), Pushed::Seen));
        assert_eq!(queue.snapshot(), (2, 1, true));
        queue.close();
        assert!(matches!(queue.push(0, Tell::Now), Pushed::Closed));
        Ok(())
    }

    #[test]
    fn last_command_closes_the_queue() -> Result {
        let queue = TestQueue::new(4)?;
        let (first_id, _) = attach(&queue)?;
        let (second_id, second) = attach(&queue)?;
        assert!(queue.cancel(first_id).is_some());
        assert!(queue.cancel(first_id).is_none());
        assert!(push(&queue, 0));
        queue.kick();
        assert_eq!(second.times_sent(), 1);
        queue.retire(second_id, true);
        assert!(!push(&queue, 1));
        assert_eq!(queue.take_untold(), Some(0));
        assert_eq!(attach(&queue).err(), Some(ENODEV));
        // One that ends because it is full does not close it.
        queue.reset();
        let (id, _) = attach(&queue)?;
        assert!(push(&queue, 0));
        queue.kick();
        queue.retire(id, false);
        assert!(push(&queue, 1));
        Ok(())
    }

    #[test]
    fn who_will_be_told() -> Result {
        let queue = TestQueue::new(4)?;
        assert_eq!(queue.teller(), Teller::Nobody);
        let (id, cmd) = attach(&queue)?;
        assert_eq!(queue.teller(), Teller::Living);
        assert!(push(&queue, 0));
        queue.kick();
        assert_eq!(queue.teller(), Teller::Living);
        assert!(queue.park(id, cmd).is_ok());
        queue.close();
        assert_eq!(queue.teller(), Teller::Nobody);
        Ok(())
    }

    #[test]
    fn closed_while_one_tells() -> Result {
        let queue = TestQueue::new(4)?;
        let (id, cmd) = attach(&queue)?;
        let (_, waiting) = attach(&queue)?;
        assert!(push(&queue, 0) && push(&queue, 1));
        assert!(queue.take_waiting().is_none());
        queue.kick();
        queue.close();
        // What is there is for the one that tells, until it has come back.
        assert!(queue.take_waiting().is_some());
        assert!(queue.take_waiting().is_none());
        assert_eq!(queue.take_untold(), None);
        assert!(queue.park(id, cmd.clone()).is_err());
        assert_eq!((cmd.times_sent(), waiting.times_sent()), (1, 0));
        assert_eq!(queue.snapshot(), (2, 0, false));
        assert_eq!(queue.take_untold(), Some(0));
        assert_eq!(queue.take_untold(), Some(1));
        Ok(())
    }

    #[test]
    fn closed_queue_tells_nobody() -> Result {
        let queue = TestQueue::new(4)?;
        let (first_id, first) = attach(&queue)?;
        let (_, second) = attach(&queue)?;
        assert!(push(&queue, 0));
        queue.kick();
        queue.close();
        // It had no room for it. The other one is for who closes the queue.
        queue.retire(first_id, false);
        assert_eq!((first.times_sent(), second.times_sent()), (1, 0));
        assert!(queue.take_waiting().is_some());
        assert_eq!(queue.take_untold(), Some(0));
        assert_eq!(queue.snapshot(), (0, 0, false));
        Ok(())
    }

    #[test]
    fn closed_queue_gives_its_tags_back() -> Result {
        let queue = TestQueue::new(4)?;
        assert!(push(&queue, 3) && push(&queue, 1));
        let mut tags = Tags::new();
        assert!(queue.take(&mut tags, 1));
        assert_eq!(*tags, [3]);
        queue.give_back(&tags);
        assert_eq!(queue.take_untold(), None);
        queue.close();
        assert!(!push(&queue, 2));
        assert_eq!(queue.take_untold(), Some(3));
        assert_eq!(queue.take_untold(), Some(1));
        assert_eq!(queue.take_untold(), None);
        queue.reset();
        assert!(push(&queue, 2));
        assert!(!queue.take(&mut tags, 3));
        assert_eq!(*tags, [2]);
        Ok(())
    }

    #[test]
    fn one_place_is_enough() -> Result {
        let queue = TestQueue::new(1)?;
        let mut tags = Tags::new();
        for _ in 0..3 {
            assert!(push(&queue, 0));
            assert!(!queue.take(&mut tags, 2));
            queue.give_back(&tags);
            assert!(!queue.take(&mut tags, 2));
            assert_eq!(*tags, [0]);
        }
        Ok(())
    }
}
