// SPDX-License-Identifier: GPL-2.0

//! Requests, which are answered exactly once.

use crate::{Errno, FileId, Io, Socket};
use std::{cell::Cell, marker::PhantomData};
use ublk_ring::Direction;

/// A request of the block layer. Offsets and lengths are in bytes.
pub enum Request<'r> {
    /// Wants data.
    Read(Read<'r>),
    /// Brings data.
    Write(Write<'r>),
    /// What was written has to be on the medium.
    Flush(Flush<'r>),
    /// Nobody needs these data any more.
    Discard(Range<'r>),
    /// These data are zero. With `true`, the room for them has to stay.
    WriteZeroes(Range<'r>, bool),
}

/// What a request ends with. Only the request makes one.
#[must_use = "the request waits for it"]
pub struct Answer<'r> {
    pub(crate) what: What,
    of: Brand<'r>,
}

impl Answer<'_> {
    /// It fails after all.
    pub fn instead(self, errno: Errno) -> Self {
        Answer { what: What::Result(Err(errno)), ..self }
    }
}

pub(crate) enum What {
    /// The data, if any, are where they belong.
    Result(Result<u32, Errno>),
    /// The data are to be moved, all of them.
    Move(Direction, Pieces),
}

/// Lifetimes of requests are told apart: neither may stand for another.
type Brand<'r> = PhantomData<Cell<&'r ()>>;

/// Where a part of the data of a request is in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The file.
    pub file: FileId,
    /// The offset in the file.
    pub offset: u64,
    /// How much, in bytes. What is more than the request has left is ignored.
    pub len: u32,
}

/// A piece, and where in the data of the request it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) piece: Piece,
    pub(crate) at: u32,
}

/// Most requests have one piece.
pub(crate) enum Pieces {
    One(Placed),
    Many(Vec<Placed>),
}

impl Pieces {
    pub(crate) fn as_slice(&self) -> &[Placed] {
        match self {
            Pieces::One(one) => std::slice::from_ref(one),
            Pieces::Many(many) => many,
        }
    }
}

/// A request, as its queue knows it.
pub(crate) struct Slot<'r> {
    pub(crate) io: &'r Io,
    pub(crate) tag: u16,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// Forced unit access.
    pub(crate) fua: bool,
    pub(crate) of: Brand<'r>,
}

impl<'r> Slot<'r> {
    fn answer(self, what: What) -> Answer<'r> {
        Answer { what, of: self.of }
    }

    fn result(self, result: Result<(), Errno>) -> Answer<'r> {
        let len = self.len;
        self.answer(What::Result(result.map(|()| len)))
    }

    fn whole(&self, file: FileId, offset: u64) -> Placed {
        Placed { piece: Piece { file, offset, len: self.len }, at: 0 }
    }

    /// All of the data, in order: `map` says where what is at this offset of the
    /// device is, and how much of that is in one piece.
    fn pieces(&self, mut map: impl FnMut(u64, u32) -> Piece) -> Result<Pieces, Errno> {
        let mut all = Vec::new();
        let mut at = 0;
        while at < self.len {
            let left = self.len - at;
            let mut piece = map(self.offset + u64::from(at), left);
            piece.len = piece.len.min(left);
            if piece.len == 0 {
                return Err(Errno::EIO);
            }
            all.push(Placed { piece, at });
            at += piece.len;
        }
        Ok(Pieces::Many(all))
    }

    fn move_pieces(self, direction: Direction, map: impl FnMut(u64, u32) -> Piece) -> Answer<'r> {
        match self.pieces(map) {
            Ok(pieces) => self.answer(What::Move(direction, pieces)),
            Err(errno) => self.result(Err(errno)),
        }
    }
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "it has to be answered"]
        pub struct $name<'r>(pub(crate) Slot<'r>);

        impl<'r> $name<'r> {
            /// It has failed.
            pub fn fail(self, errno: Errno) -> Answer<'r> {
                self.0.result(Err(errno))
            }

            /// Which of its queue's requests it is: a number that no other one has before
            /// this is answered.
            pub fn tag(&self) -> u16 {
                self.0.tag
            }
        }
    };
}

macro_rules! ranged {
    ($name:ident) => {
        #[allow(clippy::len_without_is_empty, reason = "none is empty")]
        impl $name<'_> {
            /// Where on the device it begins.
            pub fn offset(&self) -> u64 {
                self.0.offset
            }

            /// How many bytes it is about. Never 0.
            pub fn len(&self) -> u32 {
                self.0.len
            }
        }
    };
}

request!(
    /// A request for data. Its answer brings all of them, or is an error.
    Read
);
ranged!(Read);

impl<'r> Read<'r> {
    /// All of the data are in one piece, at this offset of a file.
    pub fn from_file(self, file: FileId, offset: u64) -> Answer<'r> {
        let piece = self.0.whole(file, offset);
        self.0.answer(What::Move(Direction::Fill, Pieces::One(piece)))
    }

    /// The data are in several pieces. `map` is asked, in order, where the data at an
    /// offset of the device are, of which so many bytes are left.
    pub fn from_files(self, map: impl FnMut(u64, u32) -> Piece) -> Answer<'r> {
        self.0.move_pieces(Direction::Fill, map)
    }

    /// Like [`from_file()`](Self::from_file), but if that fails, the request is still
    /// there and can be served otherwise. This waits for the data.
    pub async fn try_file(self, file: FileId, offset: u64) -> Result<Answer<'r>, (Read<'r>, Errno)> {
        let piece = self.0.whole(file, offset);
        match self.0.io.lend(&self.0, false, Direction::Fill, &[piece]).await[0] {
            Ok(()) => Ok(self.0.result(Ok(()))),
            Err(errno) => Err((self, errno)),
        }
    }

    /// Like [`from_files()`](Self::from_files), but this waits for the data: what they
    /// come from is not used any more then.
    pub async fn wait_for_files(self, map: impl FnMut(u64, u32) -> Piece) -> Answer<'r> {
        let pieces = match self.0.pieces(map) {
            Ok(pieces) => pieces,
            Err(errno) => return self.fail(errno),
        };
        let results = self.0.io.lend(&self.0, false, Direction::Fill, pieces.as_slice()).await;
        self.0.result(results.into_iter().collect())
    }
}

impl<'r> Read<'r> {
    /// All of the data are what comes next from a socket. If they do not come, the request
    /// is still there, to be served otherwise; a part of them may have been received. This
    /// waits for the data.
    pub async fn receive(self, socket: Socket) -> Result<Answer<'r>, (Read<'r>, Errno)> {
        match self.0.io.stream(&self.0, Direction::Fill, socket).await {
            Ok(()) => Ok(self.0.result(Ok(()))),
            Err(errno) => Err((self, errno)),
        }
    }
}

request!(
    /// A request that brings data.
    Write
);
ranged!(Write);

impl<'r> Write<'r> {
    /// All of the data go to a file, in one piece. If the request wants its data to
    /// be on the medium, they are.
    pub fn to_file(self, file: FileId, offset: u64) -> Answer<'r> {
        let piece = self.0.whole(file, offset);
        self.0.answer(What::Move(Direction::Drain, Pieces::One(piece)))
    }

    /// The data go to several pieces; see [`Read::from_files()`].
    pub fn to_files(self, map: impl FnMut(u64, u32) -> Piece) -> Answer<'r> {
        self.0.move_pieces(Direction::Drain, map)
    }

    /// Write all of the data to each of these places, side by side. This waits, and
    /// says what became of each; the request is still there.
    pub async fn copy_to(&self, places: &[(FileId, u64)]) -> Vec<Result<(), Errno>> {
        let pieces: Vec<_> = places.iter().map(|(file, offset)| self.0.whole(*file, *offset)).collect();
        self.0.io.lend(&self.0, self.0.fua, Direction::Drain, &pieces).await
    }

    /// Write all of the data to pieces of files, see [`Read::from_files()`]. This waits. They are
    /// not on the medium then, whatever [`fua()`](Self::fua) says: the request is still there,
    /// for who syncs them himself.
    pub async fn copy_unsynced(&self, map: impl FnMut(u64, u32) -> Piece) -> Result<(), Errno> {
        let pieces = self.0.pieces(map)?;
        let results = self.0.io.lend(&self.0, false, Direction::Drain, pieces.as_slice()).await;
        results.into_iter().collect()
    }

    /// Do its data have to be on the medium when it is done? Those that [go to a
    /// file](Self::to_file) are, without further ado.
    pub fn fua(&self) -> bool {
        self.0.fua
    }

    /// Send these bytes, at most [`Io::MOST_SENT`], and all of the data behind them. When
    /// this fails, a part may have been sent. The request is still there.
    pub async fn send(&self, socket: Socket, head: &[u8]) -> Result<(), Errno> {
        self.0.io.send_some(socket, head, true).await?;
        self.0.io.stream(&self.0, Direction::Drain, socket).await
    }

    /// Its data are where they belong.
    pub fn done(self) -> Answer<'r> {
        self.0.result(Ok(()))
    }
}

request!(
    /// A request for data to be on the medium.
    Flush
);

impl<'r> Flush<'r> {
    /// They are.
    pub fn done(self) -> Answer<'r> {
        self.0.result(Ok(()))
    }

    /// They are, or there was an error.
    pub fn answer(self, result: Result<(), Errno>) -> Answer<'r> {
        self.0.result(result)
    }
}

request!(
    /// A request that is about data, but has none.
    Range
);
ranged!(Range);

impl<'r> Range<'r> {
    /// It is done.
    pub fn done(self) -> Answer<'r> {
        self.0.result(Ok(()))
    }

    /// It is done, or there was an error.
    pub fn answer(self, result: Result<(), Errno>) -> Answer<'r> {
        self.0.result(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never called: nobody may go away in the middle and leave a request changed, and so none of
    /// them is changed while something is waited for.
    #[allow(dead_code, reason = "it compiles")]
    async fn a_request_stays_as_it_is<'r>(write: &Write<'r>, map: fn(u64, u32) -> Piece) {
        let _ = write.copy_unsynced(map).await;
        let _ = write.copy_to(&[]).await;
    }
}
