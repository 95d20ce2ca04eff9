// SPDX-License-Identifier: GPL-2.0

//! Which requests are under way, and for whom.

use std::rc::Rc;
use ublk_sys::Buffer;

/// A task of the executor, by its number.
pub(crate) type TaskId = u32;

enum State {
    Free,
    /// Submitted. Nobody, or this task, waits for it.
    Waiting(Option<TaskId>),
    Done(i32),
    /// Nobody wants to know any more.
    Abandoned,
}

struct Slot {
    state: State,
    /// The memory that the kernel reads or writes, until it has completed.
    memory: Option<Rc<Buffer>>,
}

/// A secondary of a fused command that did not do all of it, and its result.
struct Failed {
    key: u32,
    secondary: usize,
    result: i32,
}

/// The requests that were submitted. A key is a small number, and the user data of
/// the request; those of secondaries have their position plus one in the upper half.
#[derive(Default)]
pub(crate) struct Ops {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Of commands that nobody has asked about yet: few, and mostly none.
    failed: Vec<Failed>,
}

impl Ops {
    pub(crate) fn begin(&mut self, memory: Option<Rc<Buffer>>) -> u32 {
        let slot = Slot { state: State::Waiting(None), memory };
        if let Some(key) = self.free.pop() {
            self.slots[key as usize] = slot;
            return key;
        }
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).expect("fewer requests than memory")
    }

    /// Of one that is over. Returns what its secondaries failed with.
    fn free(&mut self, key: u32) -> Vec<(usize, i32)> {
        self.free.push(key);
        self.slots[key as usize].state = State::Free;
        if self.failed.is_empty() { Vec::new() } else { self.take_failed(key) }
    }

    #[cold]
    fn take_failed(&mut self, key: u32) -> Vec<(usize, i32)> {
        let of_key = self.failed.extract_if(.., |failed| failed.key == key);
        of_key.map(|failed| (failed.secondary, failed.result)).collect()
    }

    /// A CQE has come. Returns the task that waits for this, if it is over.
    pub(crate) fn complete(&mut self, user_data: u64, result: i32) -> Option<TaskId> {
        let key = (user_data & 0xffff_ffff) as u32;
        let secondary = usize::try_from(user_data >> 32).unwrap_or(usize::MAX);
        let slot = &mut self.slots[key as usize];
        if secondary > 0 {
            self.failed.push(Failed { key, secondary: secondary - 1, result });
            return None;
        }
        // The kernel has no more use for it.
        slot.memory = None;
        match slot.state {
            State::Waiting(task) => {
                slot.state = State::Done(result);
                task
            }
            State::Abandoned => {
                self.free(key);
                None
            }
            State::Free | State::Done(_) => unreachable!("two ends of one request"),
        }
    }

    /// Its result, and which secondaries failed, if it is over; else `task` waits.
    pub(crate) fn take(&mut self, key: u32, task: TaskId) -> Option<(i32, Vec<(usize, i32)>)> {
        match self.slots[key as usize].state {
            State::Done(result) => Some((result, self.free(key))),
            _ => {
                self.slots[key as usize].state = State::Waiting(Some(task));
                None
            }
        }
    }

    pub(crate) fn abandon(&mut self, key: u32) {
        match self.slots[key as usize].state {
            State::Done(_) => drop(self.free(key)),
            _ => self.slots[key as usize].state = State::Abandoned,
        }
    }

    /// The ring goes away, but the kernel may not be done with the memory: it must
    /// stay for ever.
    pub(crate) fn leak(&mut self) {
        for slot in &mut self.slots {
            std::mem::forget(slot.memory.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request() {
        let mut ops = Ops::default();
        let memory = Rc::new(Buffer::new(1).unwrap());
        let key = ops.begin(Some(memory.clone()));
        assert!(ops.take(key, 7).is_none());
        assert_eq!(Rc::strong_count(&memory), 2);
        assert_eq!(ops.complete(u64::from(key) | 3 << 32, -5), None);
        assert_eq!(ops.complete(key.into(), 4096), Some(7));
        assert_eq!(Rc::strong_count(&memory), 1);
        assert_eq!(ops.take(key, 7), Some((4096, vec![(2, -5)])));
        // What is free is used again.
        assert_eq!(ops.begin(None), key);
    }

    #[test]
    fn nobody_waits_any_more() {
        let mut ops = Ops::default();
        let memory = Rc::new(Buffer::new(1).unwrap());
        let key = ops.begin(Some(memory.clone()));
        ops.abandon(key);
        assert_eq!(Rc::strong_count(&memory), 2, "the kernel still uses it");
        let other = ops.begin(None);
        assert_ne!(key, other);
        assert_eq!(ops.complete(key.into(), 0), None);
        assert_eq!(Rc::strong_count(&memory), 1);
        assert_eq!(ops.complete(other.into(), 1), None);
        ops.abandon(other);
        assert_eq!(ops.begin(None), other);
    }
}
