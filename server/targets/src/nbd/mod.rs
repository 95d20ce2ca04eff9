// SPDX-License-Identifier: GPL-2.0

//! A device that is an export of an NBD server.
//!
//! Each queue has a connection of its own. If that is lost, another one is made, and what was
//! not answered is sent again: a server may do a request twice, nobody is told twice. Replies
//! are simple ones, so that all data of a read are in one piece.

mod conn;
mod connector;
mod demux;
mod handshake;
mod link;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod peer;
mod say;
mod stream;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests;
mod unflushed;
mod uri;
mod wire;

use conn::Outcome;
use connector::{Connector, Way};
use demux::Lost;
use handshake::Export;
use link::{Link, Patience, Sockets};
use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use stream::Stream;
use ublk_server::{Answer, Errno, Files, Geometry, Io, Range, Read, Request, Target, Write};
use unflushed::{Mark, Unflushed};
pub use uri::Uri;
use wire::{Command, FUA, Flags, Head, NO_HOLE, Refusal};

/// The most connections to a server, and so queues.
const MOST_LINKS: u16 = 16;

/// The most data of a request, and the largest block that is said to be preferred.
const MOST_DATA: u32 = 1 << 20;
const MOST_PREFERRED: u32 = 64 << 10;

/// An export of an NBD server.
pub struct Nbd {
    files: Files,
    sockets: Sockets,
    way: Arc<Way>,
    export: Export,
    limit: Duration,
    geometry: Geometry,
    /// By queue.
    links: Vec<OnceLock<Link>>,
    unflushed: Arc<Mutex<Unflushed>>,
    /// Connections that were made before there was a device, for the queues that come.
    first: Mutex<Vec<Stream>>,
}

impl fmt::Debug for Nbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nbd").field("way", &self.way).field("export", &self.export).finish_non_exhaustive()
    }
}

/// Tells, in the end, that a request does not use its connection any more.
struct Done<'l>(&'l Link, &'l Io);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done(self.1);
    }
}

fn geometry(export: &Export, read_only: bool) -> io::Result<Geometry> {
    let can = |flag| export.flags.has(flag);
    let block = export.blocks.smallest.max(512);
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    if block > 4096 || export.blocks.largest < 4096 {
        let (smallest, largest) = (export.blocks.smallest, export.blocks.largest);
        return Err(wrong(format!("blocks of {smallest} to {largest} bytes are not for the kernel")));
    }
    if export.size == 0 {
        return Err(wrong("the export is empty".into()));
    }
    let read_only = read_only || can(Flags::READ_ONLY);
    let discards = !read_only && can(Flags::TRIM);
    Ok(Geometry {
        size: export.size,
        block,
        best: export.blocks.preferred.clamp(block.max(4096), MOST_PREFERRED),
        read_only,
        cached: !read_only && can(Flags::FLUSH),
        discard: if discards { block.max(4096) } else { 0 },
        write_zeroes: !read_only && can(Flags::WRITE_ZEROES),
        // A multiple of all blocks.
        max_io: export.blocks.largest.min(MOST_DATA) / 4096 * 4096,
        queues: if can(Flags::MULTI_CONN) { MOST_LINKS } else { 1 },
        ..Geometry::default()
    })
}

impl Nbd {
    /// Connect to the server. When a connection is lost, it is tried for as long as `limit`
    /// to get another one, before requests fail.
    pub fn open(uri: &Uri, read_only: bool, limit: Duration) -> io::Result<Nbd> {
        let way = Arc::new(Way::find(uri)?);
        let (stream, export) = way.open(Duration::MAX)?;
        let geometry =
            geometry(&export, read_only).map_err(|e| io::Error::new(e.kind(), format!("{uri}: {e}")))?;
        let mut files = Files::default();
        let sockets = Sockets { server: files.add_socket(), bell: files.add_socket() };
        let links = (0..geometry.queues).map(|_| OnceLock::new()).collect();
        let unflushed = Arc::new(Mutex::new(Unflushed::new(geometry.queues)));
        let first = Mutex::new(vec![stream]);
        Ok(Nbd { files, sockets, way, export, limit, geometry, links, unflushed, first })
    }

    /// The way of a queue to its server, which is made when it is first needed.
    fn link(&self, queue: u16) -> Result<&Link, Errno> {
        let link = self.links.get(usize::from(queue)).ok_or(Errno::EIO)?;
        if let Some(link) = link.get() {
            return Ok(link);
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let is_first = first.is_some();
        let connector = Connector::new(self.way.clone(), self.export, self.limit, first)?;
        let unflushed = self.unflushed.clone();
        Ok(link.get_or_init(|| Link::new(self.sockets, connector, queue, is_first, unflushed, self.limit)))
    }

    /// Ask until there is an answer. Says which connection it has come from.
    async fn ask(&self, io: &Io, tag: u16, head: Head, data: Option<&Write<'_>>) -> Result<Mark, Errno> {
        self.way.reaches(head.offset.saturating_add(head.len.into()));
        let link = self.link(io.queue())?;
        let mut patience = Patience::new(self.limit);
        loop {
            let conn = link.conn(io).await?;
            let _done = Done(link, io);
            let mark = link.mark();
            let outcome = conn.ask(io, tag, &head, data).await;
            if matches!(outcome, Ok(Outcome::Done(_))) {
                link.answered(mark);
            }
            match outcome {
                Ok(Outcome::Done(Ok(()))) => return Ok(mark),
                Ok(Outcome::Done(Err(Refusal::Failed(errno)))) => return Err(errno),
                Ok(Outcome::Done(Err(Refusal::Leaving))) => conn.leave(self.limit),
                Ok(Outcome::NotSent) => {}
                Ok(Outcome::Data(_)) | Err(Lost) => conn.end(),
            }
            patience.lost()?;
        }
    }

    async fn read<'r>(&self, io: &Io, mut read: Read<'r>) -> Answer<'r> {
        let link = match self.link(io.queue()) {
            Ok(link) => link,
            Err(errno) => return read.fail(errno),
        };
        let head = Head { command: Command::Read, flags: 0, offset: read.offset(), len: read.len() };
        self.way.reaches(head.offset.saturating_add(head.len.into()));
        let mut patience = Patience::new(self.limit);
        loop {
            let conn = match link.conn(io).await {
                Ok(conn) => conn,
                Err(errno) => return read.fail(errno),
            };
            let _done = Done(link, io);
            let mark = link.mark();
            match conn.ask(io, read.tag(), &head, None).await {
                Ok(Outcome::Data(role)) => match read.receive(conn.socket()).await {
                    Ok(answer) => {
                        role.release();
                        link.answered(mark);
                        return answer;
                    }
                    // Without its end, the role ends the connection.
                    Err((again, _)) => read = again,
                },
                Ok(Outcome::Done(Err(Refusal::Failed(errno)))) => return read.fail(errno),
                Ok(Outcome::Done(Err(Refusal::Leaving))) => conn.leave(self.limit),
                Ok(Outcome::NotSent) => {}
                Ok(Outcome::Done(Ok(()))) | Err(Lost) => conn.end(),
            }
            if let Err(errno) = patience.lost() {
                return read.fail(errno);
            }
        }
    }

    /// Flush what was answered on a connection.
    async fn flush_conn(&self, io: &Io, tag: u16) -> Result<Mark, Errno> {
        let mark =
            self.ask(io, tag, Head { command: Command::Flush, flags: 0, offset: 0, len: 0 }, None).await?;
        self.link(io.queue())?.flushed(mark);
        Ok(mark)
    }

    async fn flush(&self, io: &Io, tag: u16) -> Result<(), Errno> {
        if !self.export.flags.has(Flags::FLUSH) {
            return Ok(());
        }
        self.flush_conn(io, tag).await?;
        self.link(io.queue())?.all_flushed()
    }

    /// Send what changes the export, with FUA if it has to be on the medium and the server can
    /// do that, or with a flush behind it.
    async fn change(
        &self,
        io: &Io,
        tag: u16,
        head: Head,
        data: Option<&Write<'_>>,
        fua: bool,
    ) -> Result<(), Errno> {
        // Where there is no flush, nobody asks for this: all of it has to be on the medium.
        let fua = fua || !self.geometry.cached;
        let can = self.export.flags.has(Flags::FUA);
        let flags = head.flags | if fua && can { FUA } else { 0 };
        let wrote = self.ask(io, tag, Head { flags, ..head }, data).await?;
        if fua && can || !self.export.flags.has(Flags::FLUSH) {
            return Ok(());
        }
        let link = self.link(io.queue())?;
        if !fua {
            link.wrote(wrote);
            return Ok(());
        }
        let flushed = self.flush_conn(io, tag).await?;
        if link.covers(flushed, wrote) { Ok(()) } else { Err(Errno::EIO) }
    }

    async fn write(&self, io: &Io, write: &Write<'_>) -> Result<(), Errno> {
        if self.geometry.read_only {
            return Err(Errno::EROFS);
        }
        let head = Head { command: Command::Write, flags: 0, offset: write.offset(), len: write.len() };
        self.change(io, write.tag(), head, Some(write), write.fua()).await
    }

    /// Of what has no data.
    async fn range(&self, io: &Io, range: &Range<'_>, command: Command, flags: u16) -> Result<(), Errno> {
        let can = match command {
            Command::Trim => self.geometry.discard > 0,
            _ => self.geometry.write_zeroes,
        };
        if !can {
            return Err(Errno::EOPNOTSUPP);
        }
        let head = Head { command, flags, offset: range.offset(), len: range.len() };
        self.change(io, range.tag(), head, None, false).await
    }
}

impl Target for Nbd {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn files(&self) -> &Files {
        &self.files
    }

    /// A server that has no room for all of the queues would let some wait for ever.
    fn prepare(&self, queues: u16) -> io::Result<()> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        for number in first.len()..queues.into() {
            let stream = self.way.open_again(Duration::MAX, &self.export).map_err(|e| {
                let why = format!(
                    "connection {} of {queues}, one for each queue: {e} (fewer --queues, or a server \
                     that takes more clients)",
                    number + 1
                );
                io::Error::new(e.kind(), why)
            })?;
            first.push(stream);
        }
        Ok(())
    }

    async fn serve<'r>(&'r self, io: &'r Io, request: Request<'r>) -> Answer<'r> {
        match request {
            Request::Read(read) => self.read(io, read).await,
            Request::Write(write) => match self.write(io, &write).await {
                Ok(()) => write.done(),
                Err(errno) => write.fail(errno),
            },
            Request::Flush(flush) => {
                let result = self.flush(io, flush.tag()).await;
                flush.answer(result)
            }
            Request::Discard(range) => {
                let result = self.range(io, &range, Command::Trim, 0).await;
                range.answer(result)
            }
            Request::WriteZeroes(range, keep) => {
                let flags = if keep { NO_HOLE } else { 0 };
                let result = self.range(io, &range, Command::WriteZeroes, flags).await;
                range.answer(result)
            }
        }
    }
}
