// SPDX-License-Identifier: GPL-2.0

//! A ring and the tasks that wait for what it does.

use crate::{
    MAX_SECONDARY,
    batch::{Batch, COMMIT, FETCH},
    ops::{Ops, TaskId},
    sqe::{Direction, FileIndex, IoCmd, OP_FUSED_CMD, Secondary, Sqe},
};
use io_uring::{IoUring, Probe, squeue::Entry};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    ops::{Deref, DerefMut},
    os::fd::{AsRawFd, BorrowedFd},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
};
use ublk_sys::{Buffer, Errno, FUSED_CMD_FEATURE, io_uring_features, try_again};

/// A future that a ring runs.
pub type Task<'r> = Pin<Box<dyn Future<Output = ()> + 'r>>;

/// A ring of one thread: the one that makes it.
pub struct Ring {
    uring: RefCell<IoUring>,
    ops: RefCell<Ops>,
    /// Who is being polled.
    current: Cell<TaskId>,
    /// Numbers of tasks are those of one run.
    running: Cell<bool>,
    /// Why there is no sense in going on.
    failed: Cell<Option<io::Error>>,
    fused: bool,
    /// With `UBLK_F_BATCH_IO`.
    batch: RefCell<Option<Batch>>,
}

/// Does this kernel have fused commands? The bit of a feature alone may come to mean
/// another one, and what follows a command would then be taken for requests with
/// addresses of ours.
fn has_groups(features: u32, probe: &Probe) -> bool {
    features & FUSED_CMD_FEATURE != 0 && probe.is_supported(OP_FUSED_CMD)
}

/// Can this kernel carry out fused commands?
pub fn has_fused_commands() -> bool {
    let probe = || -> io::Result<bool> {
        let mut probe = Probe::new();
        IoUring::new(1)?.submitter().register_probe(&mut probe)?;
        Ok(has_groups(io_uring_features()?, &probe))
    };
    probe().unwrap_or(false)
}

impl Ring {
    /// A ring with room for this many requests per submission, and with these
    /// files, which are 0, 1, … of it, and room for `more` to be [put](Self::put)
    /// behind them. The first `buffers` entries of its buffer table are for drivers to
    /// put the data of requests in.
    pub fn new(entries: u32, files: &[BorrowedFd<'_>], more: usize, buffers: u16) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build(entries.max(2 * (1 + u32::from(MAX_SECONDARY))))?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        let empty = std::iter::repeat_n(-1, more);
        let raw: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).chain(empty).collect();
        uring.submitter().register_files(&raw)?;
        if buffers > 0 {
            uring.submitter().register_buffers_sparse(buffers.into())?;
        }
        Ok(Ring {
            uring: RefCell::new(uring),
            ops: RefCell::default(),
            current: Cell::new(0),
            running: Cell::new(false),
            failed: Cell::new(None),
            fused: has_groups(io_uring_features()?, &probe),
            batch: RefCell::new(None),
        })
    }

    /// This ring serves a queue with `UBLK_F_BATCH_IO`. With `auto`, the data of a
    /// request are the entry of the buffer table with its tag.
    pub fn serve_batches(&self, device: FileIndex, q_id: u16, depth: u16, auto: bool) -> io::Result<()> {
        let batch = Batch::new(&self.uring.borrow(), device, q_id, depth, auto)?;
        *self.batch.borrow_mut() = Some(batch);
        Ok(())
    }

    /// Wait for a request of a tag: 0, or why there is none any more.
    ///
    /// # Panics
    ///
    /// This and [`commit_later()`](Self::commit_later): if the ring serves no batches.
    pub async fn next_request(&self, tag: u16) -> i32 {
        std::future::poll_fn(|_| {
            let mut batch = self.batch.borrow_mut();
            let batch = batch.as_mut().expect("it serves batches");
            batch.next(tag, self.current.get()).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// The request of a tag has ended with this. The kernel is told soon.
    pub fn commit_later(&self, tag: u16, result: i32) {
        self.batch.borrow_mut().as_mut().expect("it serves batches").commit(tag, result);
    }

    /// What a batch has for the kernel. Is there nothing to wait for?
    fn flush_batch(&self) -> io::Result<bool> {
        let mut batch = self.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return Ok(true) };
        while let Some(entry) = batch.next_entry() {
            self.push(&[entry])?;
        }
        batch.broken().map_or(Ok(batch.is_idle()), |errno| Err(errno.into()))
    }

    /// The tasks end where they are, and [`run()`](Self::run) with this error.
    pub fn fail(&self, error: io::Error) {
        self.failed.set(Some(error));
    }

    /// From now on this is another file, or none. Requests that were submitted keep the one that
    /// they have; those that were not are submitted before.
    pub fn put(&self, file: FileIndex, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let uring = self.uring.borrow();
        submit(&uring)?;
        uring.submitter().register_files_update(file.0, &[fd.map_or(-1, |fd| fd.as_raw_fd())])?;
        Ok(())
    }

    /// Run tasks to their end. They may wait for requests of this ring, and for each
    /// other: a waker of another thread is not seen before a request completes.
    ///
    /// # Panics
    ///
    /// If it runs tasks already.
    pub fn run(&self, tasks: Vec<Task<'_>>) -> io::Result<()> {
        assert!(!self.running.replace(true), "a task runs tasks");
        let result = self.run_all(tasks);
        self.running.set(false);
        result
    }

    fn run_all(&self, tasks: Vec<Task<'_>>) -> io::Result<()> {
        let mut left = tasks.len();
        let mut ready: Vec<TaskId> = (0..).take(left).collect();
        let woken = Arc::<Mutex<Vec<TaskId>>>::default();
        let waker = |id| Waker::from(Arc::new(Woken { id, woken: woken.clone() }));
        let mut tasks: Vec<_> = (0..).zip(tasks).map(|(id, task)| Some((task, waker(id)))).collect();
        loop {
            for id in ready.drain(..) {
                let task = &mut tasks[id as usize];
                self.current.set(id);
                if let Some((future, waker)) = task
                    && future.as_mut().poll(&mut Context::from_waker(waker)).is_ready()
                {
                    *task = None;
                    left -= 1;
                }
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.flush_batch()? && left == 0 {
                return Ok(());
            }
            std::mem::swap(&mut ready, &mut *woken.lock().unwrap_or_else(PoisonError::into_inner));
            if !ready.is_empty() {
                continue;
            }
            self.wait()?;
            let mut uring = self.uring.borrow_mut();
            let mut ops = self.ops.borrow_mut();
            let mut batch = self.batch.borrow_mut();
            for cqe in uring.completion() {
                match (&mut *batch, cqe.user_data()) {
                    (Some(batch), data) if data & (FETCH | COMMIT) != 0 => {
                        batch.complete(data, cqe.result(), cqe.flags(), &mut ready);
                    }
                    (_, data) => ready.extend(ops.complete(data, cqe.result())),
                }
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        match self.uring.borrow().submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(e) if try_again(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// All of these entries, or none: a group must not be torn.
    fn push(&self, entries: &[Entry]) -> io::Result<()> {
        let mut uring = self.uring.borrow_mut();
        // SAFETY: an entry has no address of ours, or one of memory that is kept
        // with the request until it has completed. Buffers in the table, and what
        // is lent, are those of the driver.
        while unsafe { uring.submission().push_multiple(entries) }.is_err() {
            if entries.len() > uring.submission().capacity() {
                return Err(Errno::EINVAL.into());
            }
            submit(&uring)?;
        }
        Ok(())
    }

    fn start(
        &self,
        memory: Option<Rc<Buffer>>,
        entries: impl FnOnce(u64, &dyn Fn(&[Entry]) -> io::Result<()>) -> io::Result<()>,
    ) -> Op<'_> {
        let key = self.ops.borrow_mut().begin(memory);
        if let Err(e) = entries(key.into(), &|entries| self.push(entries)) {
            // It never got to the kernel.
            self.ops.borrow_mut().complete(key.into(), -Errno::from(e).get());
        }
        Op { ring: self, key: Some(key) }
    }

    fn one(&self, sqe: Sqe) -> Op<'_> {
        self.start(None, |key, push| push(&[sqe.entry(key)]))
    }

    /// A command to the driver of this file.
    pub fn command(&self, device: FileIndex, cmd: &IoCmd) -> Op<'_> {
        self.one(Sqe::command(device, cmd))
    }

    /// A command that lends the data of a request, which these 1 to
    /// [`MAX_SECONDARY`] secondaries fill or drain. `EOPNOTSUPP` if the kernel
    /// does not know of that, `EINVAL` if it is another number.
    pub fn fused(
        &self,
        device: FileIndex,
        cmd: &IoCmd,
        direction: Direction,
        pieces: &[Secondary],
    ) -> Op<'_> {
        self.start(None, |key, push| {
            // An older kernel would take the offsets for addresses of ours.
            if !self.fused {
                return Err(Errno::EOPNOTSUPP.into());
            }
            let nr = u16::try_from(pieces.len()).ok().filter(|nr| (1..=MAX_SECONDARY).contains(nr));
            let nr = nr.ok_or(Errno::EINVAL)?;
            let primary = Sqe::primary(device, cmd, nr).entry(key);
            let secondary =
                |i: usize| Sqe::secondary(direction, &pieces[i]).entry(key | (i as u64 + 1) << 32);
            if pieces.len() == 1 {
                return push(&[primary, secondary(0)]);
            }
            let mut all = Vec::with_capacity(1 + pieces.len());
            all.push(primary);
            all.extend((0..pieces.len()).map(secondary));
            push(&all)
        })
    }

    /// Fill or drain a buffer of the table, which a driver has put there.
    pub fn fixed(&self, direction: Direction, buffer: u16, piece: &Secondary) -> Op<'_> {
        self.one(Sqe::fixed(direction, buffer, piece))
    }

    fn transfer_part(&self, direction: Direction, memory: &Memory, piece: &Secondary) -> Op<'_> {
        self.start(Some(memory.0.clone()), |key, push| {
            let (at, len) = (piece.at as usize, piece.len as usize);
            let Some(addr) = memory.0.addr_of(at, len) else {
                return Err(io::Error::from_raw_os_error(libc::EFAULT));
            };
            let sqe = Sqe::transfer(direction, piece, addr);
            push(&[sqe.entry(key)])
        })
    }

    /// Fill or drain a part of memory, which comes back when that has completed, with the
    /// result. It is `EFAULT` if the part is not inside the memory.
    pub async fn transfer(&self, direction: Direction, memory: Memory, piece: Secondary) -> (i32, Memory) {
        let done = self.transfer_part(direction, &memory, &piece).await;
        (done.result, memory)
    }

    /// As [`transfer()`](Self::transfer), for several parts side by side.
    pub async fn transfer_all(
        &self,
        direction: Direction,
        memory: Memory,
        pieces: &[Secondary],
    ) -> (Vec<i32>, Memory) {
        let ops: Vec<_> = pieces.iter().map(|piece| self.transfer_part(direction, &memory, piece)).collect();
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(op.await.result);
        }
        (results, memory)
    }

    /// All data of the file are on the medium.
    pub fn fsync(&self, file: FileIndex) -> Op<'_> {
        self.one(Sqe::fsync(file))
    }

    /// `fallocate()`.
    pub fn fallocate(&self, file: FileIndex, mode: u32, offset: u64, len: u64) -> Op<'_> {
        self.one(Sqe::fallocate(file, mode, offset, len))
    }
}

/// Memory that requests of a ring fill and drain: it is theirs until they have completed, even if
/// nobody waits for them any more.
///
/// # Invariants
///
/// There is another reference to the buffer only while this value is in a future of
/// [`Ring::transfer()`] or [`Ring::transfer_all()`].
pub struct Memory(Rc<Buffer>);

impl Memory {
    /// So many bytes, above 0; zeroes.
    pub fn new(len: usize) -> io::Result<Memory> {
        // INVARIANT: there is no other reference.
        Ok(Memory(Rc::new(Buffer::new(len)?)))
    }
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // By the invariant: a request that has completed has given its reference up.
        Rc::get_mut(&mut self.0).expect("all have completed")
    }
}

/// What was pushed goes to the kernel.
fn submit(uring: &IoUring) -> io::Result<()> {
    loop {
        match uring.submit() {
            // Memory is short, or there was a signal. Nobody else tries again.
            Err(e) if try_again(&e) && e.raw_os_error() != Some(libc::EBUSY) => std::thread::yield_now(),
            result => return result.map(drop),
        }
    }
}

/// Wakes a task for the others of its ring.
struct Woken {
    id: TaskId,
    woken: Arc<Mutex<Vec<TaskId>>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel takes its time with the rest, but who uses the files next need not wait for it.
        let _ = self.uring.get_mut().submitter().unregister_files();
        self.ops.borrow_mut().leak();
        if let Some(batch) = self.batch.get_mut() {
            batch.leak();
        }
    }
}

/// How a request has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// What the kernel says: an error is negative.
    pub result: i32,
    /// Of a fused command: which secondaries failed or came short, and their results.
    pub failed: Vec<(usize, i32)>,
}

impl Done {
    /// The result, or the error.
    pub fn ok(&self) -> Result<u32, Errno> {
        match Errno::of(self.result) {
            Some(errno) => Err(errno),
            None => Ok(self.result.unsigned_abs()),
        }
    }
}

/// A request that was submitted, or will be when the task waits for something.
#[must_use = "it is under way; wait for it"]
pub struct Op<'r> {
    ring: &'r Ring,
    /// Until it has told.
    key: Option<u32>,
}

impl Future for Op<'_> {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Done> {
        let key = self.key.expect("polled after its end");
        let taken = self.ring.ops.borrow_mut().take(key, self.ring.current.get());
        match taken {
            Some((result, failed)) => {
                self.key = None;
                Poll::Ready(Done { result, failed })
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Op<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.ring.ops.borrow_mut().abandon(key);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sqe::Kind;
    use std::{
        fs::File,
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    /// A ring, or `None` where this process may not have one, and somebody knows that.
    pub(crate) fn there_is<R>(ring: io::Result<R>) -> Option<R> {
        match ring {
            Ok(ring) => Some(ring),
            Err(e) if std::env::var_os("FUBLK_NO_URING").is_some() => {
                eprintln!("skipped: {e}");
                None
            }
            Err(e) => panic!("no io_uring here: {e}. With FUBLK_NO_URING=1, what needs it is skipped"),
        }
    }

    /// A file with these bytes, and a ring that has it as file 0.
    fn ring(bytes: &[u8]) -> Option<(File, Ring)> {
        static COUNT: Mutex<u32> = Mutex::new(0);
        let count = {
            let mut count = COUNT.lock().unwrap();
            *count += 1;
            *count
        };
        let path = std::env::temp_dir().join(format!("fublk-ring-{}-{count}", std::process::id()));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(bytes).unwrap();
        let ring = there_is(Ring::new(8, &[file.as_fd()], 1, 0))?;
        Some((file, ring))
    }

    fn piece(offset: u64, at: u32, len: u32) -> Secondary {
        Secondary { file: FileIndex(0), offset, at, len, sync: true, kind: Kind::File }
    }

    #[test]
    fn memory_goes_and_comes_back() {
        let Some((_file, ring)) = ring(b"0123456789") else { return };
        let check = async {
            let memory = Memory::new(4096).unwrap();
            let pieces = [piece(5, 0, 5), piece(0, 5, 5), piece(8, 10, 5), piece(0, 4092, 5)];
            let (results, mut memory) = ring.transfer_all(Direction::Fill, memory, &pieces).await;
            // The third comes short, the fourth is not inside the memory.
            assert_eq!(results, [5, 5, 2, -libc::EFAULT]);
            assert_eq!(&memory[..12], b"567890123489");
            memory[..3].copy_from_slice(b"abc");
            let (result, memory) = ring.transfer(Direction::Drain, memory, piece(0, 0, 3)).await;
            assert_eq!(result, 3);
            let (_, memory) = ring.transfer(Direction::Fill, memory, piece(0, 0, 10)).await;
            assert_eq!(&memory[..10], b"abc3456789");
            assert_eq!(ring.fsync(FileIndex(0)).await.result, 0);
            assert_eq!(ring.fsync(FileIndex(1)).await.ok(), Err(Errno::of(-libc::EBADF).unwrap()));
        };
        ring.run(vec![Box::pin(check)]).unwrap();
    }

    #[test]
    fn many_tasks_and_more_requests_than_room() {
        let Some((_file, ring)) = ring(&[7; 4096]) else { return };
        let done = Cell::new(0);
        let (ring, done) = (&ring, &done);
        let task = || async move {
            for _ in 0..10 {
                let pieces: Vec<_> = (0..64).map(|i| piece(0, i * 64, 64)).collect();
                let memory = Memory::new(4096).unwrap();
                let (results, memory) = ring.transfer_all(Direction::Fill, memory, &pieces).await;
                assert_eq!(results, [64; 64]);
                assert_eq!(*memory, [7; 4096]);
            }
            done.set(done.get() + 1);
        };
        ring.run((0..16).map(|_| Box::pin(task()) as Task<'_>).collect()).unwrap();
        assert_eq!(done.get(), 16);
    }

    #[test]
    fn who_goes_away_leaves_nothing() {
        let Some((_file, ring)) = ring(&[7; 4096]) else { return };
        let check = async {
            drop(ring.fsync(FileIndex(0)));
            let memory = Memory::new(64).unwrap();
            let mut lost = Box::pin(ring.transfer(Direction::Fill, memory, piece(0, 0, 64)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(lost.as_mut().poll(&mut context).is_pending());
            drop(lost);
            assert_eq!(ring.fsync(FileIndex(0)).await.result, 0);
        };
        ring.run(vec![Box::pin(check)]).unwrap();
    }

    #[test]
    fn tasks_wake_each_other() {
        let Some((_file, ring)) = ring(&[7; 4096]) else { return };
        let (told, waiting) = (&Cell::new(false), &RefCell::new(None::<Waker>));
        let waits = std::future::poll_fn(move |context| {
            waiting.replace(Some(context.waker().clone()));
            if told.get() { Poll::Ready(()) } else { Poll::Pending }
        });
        let tells = async {
            assert_eq!(ring.fsync(FileIndex(0)).await.result, 0);
            told.set(true);
            waiting.take().expect("it was first").wake();
        };
        ring.run(vec![Box::pin(waits), Box::pin(tells)]).unwrap();
    }

    #[test]
    fn sockets_come_later_and_all_is_received() {
        let Some((_file, ring)) = ring(&[7; 4096]) else { return };
        let check = async {
            let piece = |at, len| Secondary {
                file: FileIndex(1),
                kind: Kind::Socket { more: false },
                ..piece(0, at, len)
            };
            let memory = Memory::new(4096).unwrap();
            let (results, mut memory) = ring.transfer_all(Direction::Fill, memory, &[piece(0, 1)]).await;
            assert_eq!(results, [-libc::EBADF]);
            let (ours, mut other) = UnixStream::pair().unwrap();
            ring.put(FileIndex(1), Some(ours.as_fd())).unwrap();
            memory[..5].copy_from_slice(b"hello");
            let (results, memory) = ring.transfer_all(Direction::Drain, memory, &[piece(0, 5)]).await;
            let mut got = [0; 5];
            other.read_exact(&mut got).unwrap();
            assert_eq!((results.as_slice(), &got), ([5].as_slice(), b"hello"));
            other.write_all(b"abc").unwrap();
            let slow = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(50));
                other.write_all(b"def").unwrap();
            });
            let (results, memory) = ring.transfer_all(Direction::Fill, memory, &[piece(8, 6)]).await;
            assert_eq!((results.as_slice(), &memory[8..14]), ([6].as_slice(), b"abcdef".as_slice()));
            slow.join().unwrap();
            // The other end is gone.
            let (results, _) = ring.transfer_all(Direction::Fill, memory, &[piece(0, 6)]).await;
            assert_eq!(results, [0]);
            // One that is not put any more is closed.
            let (ours, mut other) = UnixStream::pair().unwrap();
            ring.put(FileIndex(1), Some(ours.as_fd())).unwrap();
            drop(ours);
            other.set_nonblocking(true).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            ring.put(FileIndex(1), None).unwrap();
            other.set_nonblocking(false).unwrap();
            other.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap(), 0);
        };
        ring.run(vec![Box::pin(check)]).unwrap();
    }

    #[test]
    fn who_waits_for_a_connection_that_is_aborted_is_told() {
        for direction in [Direction::Fill, Direction::Drain] {
            let Some((_file, ring)) = ring(&[7; 4096]) else { return };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (other, _) = listener.accept().unwrap();
            let check = async {
                ring.put(FileIndex(1), Some(ours.as_fd())).unwrap();
                let theirs = ours.try_clone().unwrap();
                let aborts = std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(300));
                    ublk_sys::abort(&theirs).unwrap();
                });
                let mut memory = Memory::new(1 << 20).unwrap();
                let whole = Secondary {
                    file: FileIndex(1),
                    kind: Kind::Socket { more: false },
                    ..piece(0, 0, 1 << 20)
                };
                // Until it waits.
                loop {
                    let result;
                    (result, memory) = ring.transfer(direction, memory, whole).await;
                    if result <= 0 {
                        break;
                    }
                }
                aborts.join().unwrap();
            };
            ring.run(vec![Box::pin(check)]).unwrap();
            drop(other);
        }
    }

    #[test]
    fn no_group_where_there_is_no_fused_command() {
        let Some((_file, mut ring)) = ring(&[7; 4096]) else { return };
        ring.fused = false;
        let cmd =
            IoCmd { op: ublk_sys::uapi::IoOp::FusedSubmit, q_id: 0, tag: 0, result: 0, auto_index: None };
        let ring = &ring;
        let check = async move {
            let op = ring.fused(FileIndex(0), &cmd, Direction::Fill, &[piece(0, 0, 64)]);
            assert_eq!(op.await.ok(), Err(Errno::EOPNOTSUPP));
        };
        ring.run(vec![Box::pin(check)]).unwrap();
    }

    #[test]
    fn a_bit_alone_is_no_fused_command() {
        // Nobody was asked about the operation.
        assert!(!has_groups(u32::MAX, &Probe::new()));
    }

    #[test]
    fn a_task_can_not_run_tasks() {
        let Some((_file, ring)) = ring(&[7; 4096]) else { return };
        let ring = &ring;
        let inner = async move {
            let _ = ring.run(Vec::new());
        };
        let run = || ring.run(vec![Box::pin(inner)]);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        let why = panic.downcast_ref::<&str>().copied().unwrap_or_default();
        assert!(why.contains("a task runs tasks"), "{why}");
    }

    #[test]
    fn one_task_fails_for_all() {
        let Some((_file, ring)) = ring(&[7; 4096]) else { return };
        let ring = &ring;
        let fails = async move { ring.fail(io::Error::other("lost")) };
        let waits = async { std::future::pending().await };
        let result = ring.run(vec![Box::pin(fails), Box::pin(waits)]);
        assert_eq!(result.unwrap_err().to_string(), "lost");
    }
}
