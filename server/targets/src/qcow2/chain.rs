// SPDX-License-Identifier: GPL-2.0

//! An image with the files that it builds upon.

use super::{
    bounce::{self, Bounce, Slot},
    disk::Disk,
    entry::{self, Cluster, Entry},
    header::{BackingFile, Format, Header, MOST_BYTES},
    image::Image,
};
use crate::open::{Access, about, open_any_size};
use std::{
    collections::HashSet,
    fs, io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use ublk_server::{Errno, FileId, Files, Piece};

/// How many files may build upon each other.
const MOST_LAYERS: usize = 32;

/// No page is larger.
const MOST_PAGE: u32 = 64 << 10;

/// A file of the chain.
enum Layer {
    Image(Box<Image>),
    Raw { id: FileId, disk: Disk },
}

/// The image is the first, and each layer builds upon the next one.
pub(super) struct Chain {
    layers: Vec<Layer>,
    bounce: Bounce,
    bounce_id: FileId,
}

/// Where a part of the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Zero,
    /// In the file of a layer.
    File(FileId, u64),
    /// Somewhere where it is not as a request needs it.
    Hidden,
}

/// The layer that has it, and its entry there, if it is an image; `None`: it is zero.
type Source = Option<(usize, Entry)>;

/// What a request for data gets. The slot is to be kept until it has.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) pieces: Vec<Piece>,
    pub(super) slot: Option<Slot>,
}

/// What clusters of the disk shall have instead of what they have.
#[derive(Default)]
struct Changes {
    /// The clusters, and their entries.
    entries: Vec<(u64, u64)>,
    /// New clusters of the image, of which of the entries, and whether they were written.
    taken: Vec<(usize, u64, bool)>,
    /// Something was written that has to be on the medium before tables name it.
    written: bool,
}

impl Plan {
    /// One more piece, behind the others.
    fn add(&mut self, piece: Piece) {
        if let Some(last) = self.pieces.last_mut()
            && last.file == piece.file
            && last.offset + u64::from(last.len) == piece.offset
        {
            last.len += piece.len;
            return;
        }
        self.pieces.push(piece);
    }
}

fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn read_header(path: &Path, disk: &Disk) -> io::Result<Header> {
    let len = usize::try_from(disk.end()).unwrap_or(usize::MAX).min(MOST_BYTES);
    let mut bytes = vec![0; len];
    disk.read(0, &mut bytes).map_err(|e| about(path, e))?;
    Header::parse(&bytes).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// The paths of an image and of all that it builds upon.
pub(super) fn paths(path: &Path) -> io::Result<Vec<PathBuf>> {
    let look = Access { look: true, ..Access::default() };
    let mut paths = Vec::new();
    let mut next = Some((path.to_owned(), Format::Qcow2));
    while let Some((path, format)) = next.take() {
        if paths.len() == MOST_LAYERS {
            return Err(too_many(&path));
        }
        if format == Format::Qcow2 {
            let (file, size) = open_any_size(&path, look)?;
            let backing = read_header(&path, &Disk::new(file, size)?)?.backing;
            next = backing.map(|backing| (resolve(&path, &backing), backing.format));
        }
        paths.push(path);
    }
    Ok(paths)
}

fn too_many(path: &Path) -> io::Error {
    about(path, format_args!("more than {MOST_LAYERS} files build upon each other"))
}

impl Chain {
    /// Open an image and all that it builds upon. The other files are only read.
    pub(super) fn open(path: &Path, access: Access, files: &mut Files) -> io::Result<Chain> {
        let (bounce, file) = Bounce::new()?;
        let bounce_id = files.add(file);
        let mut chain = Chain { layers: Vec::new(), bounce, bounce_id };
        let mut seen = HashSet::new();
        let mut next = Some((path.to_owned(), Format::Qcow2));
        while let Some((path, format)) = next.take() {
            let first = chain.layers.is_empty();
            if chain.layers.len() == MOST_LAYERS {
                return Err(too_many(&path));
            }
            let access = Access { read_only: access.read_only || !first, ..access };
            // Before it is opened: that it is in use, by us, would explain little.
            let meta = fs::metadata(&path).map_err(|e| {
                let what = if first { "" } else { "backing file: " };
                io::Error::new(e.kind(), format!("{}: {what}{e}", path.display()))
            })?;
            if !seen.insert((meta.dev(), meta.ino())) {
                return Err(about(&path, "builds upon itself"));
            }
            let (file, size) = open_any_size(&path, access)?;
            let id = files.add(file.try_clone()?);
            let disk = Disk::new(file, size)?;
            let backing = chain.add(path.clone(), id, disk, format, !access.read_only && !access.look)?;
            next = backing.map(|backing| (resolve(&path, &backing), backing.format));
        }
        Ok(chain)
    }

    fn add(
        &mut self,
        path: PathBuf,
        id: FileId,
        disk: Disk,
        format: Format,
        write: bool,
    ) -> io::Result<Option<BackingFile>> {
        if format == Format::Raw {
            self.layers.push(Layer::Raw { id, disk });
            return Ok(None);
        }
        let header = read_header(&path, &disk)?;
        if let Some(why) = header.no_writes.filter(|_| write) {
            return Err(about(&path, why));
        }
        let backing = header.backing.clone();
        self.layers.push(Layer::Image(Box::new(Image::open(path, id, header, disk, write)?)));
        Ok(backing)
    }

    /// The image itself.
    pub(super) fn top(&mut self) -> &mut Image {
        match &mut self.layers[0] {
            Layer::Image(image) => image,
            Layer::Raw { .. } => unreachable!("the first one is an image"),
        }
    }

    /// Where the disk is from `offset` on, seen from this layer, and how much is there.
    fn find(&mut self, from: usize, offset: u64, len: u64) -> Result<(Found, u64), Errno> {
        let (len, source) = self.source(from, offset, len)?;
        let Some((layer, entry)) = source else { return Ok((Found::Zero, len)) };
        Ok(match (&self.layers[layer], entry) {
            (Layer::Raw { id, disk }, _) => in_file(*id, disk, offset, len),
            (Layer::Image(image), Entry::Data(data)) => {
                in_file(image.id, &image.disk, data.at + offset % image.cluster(), len)
            }
            _ => (Found::Hidden, len),
        })
    }

    /// Copy the disk from `offset` on, seen from this layer.
    fn copy(&mut self, from: usize, mut offset: u64, mut to: &mut [u8]) -> Result<(), Errno> {
        while !to.is_empty() {
            let (n, source) = self.source(from, offset, to.len() as u64)?;
            let (now, later) = to.split_at_mut(usize::try_from(n).unwrap_or(usize::MAX).min(to.len()));
            match source {
                None => now.fill(0),
                Some((layer, at)) => match (&mut self.layers[layer], at) {
                    (Layer::Raw { disk, .. }, _) => disk.read_padded(offset, now)?,
                    (Layer::Image(image), Entry::Data(data)) => {
                        image.disk.read_padded(data.at + offset % image.cluster(), now)?;
                    }
                    (Layer::Image(image), Entry::Compressed(packed)) => {
                        let within = offset % image.cluster();
                        image.unpack(packed, within, now)?;
                    }
                    _ => now.fill(0),
                },
            }
            offset += now.len() as u64;
            to = later;
        }
        Ok(())
    }

    /// Which layer has the disk from `offset` on, and how much of that; `None`: it is zero.
    fn source(&mut self, from: usize, offset: u64, len: u64) -> Result<(u64, Source), Errno> {
        let mut len = len;
        for (i, layer) in self.layers.iter_mut().enumerate().skip(from) {
            let image = match layer {
                Layer::Raw { disk, .. } if offset < disk.end() => {
                    return Ok((len, Some((i, Entry::Missing))));
                }
                Layer::Raw { .. } => return Ok((len, None)),
                Layer::Image(image) => image,
            };
            if offset >= image.header.size {
                return Ok((len, None));
            }
            len = len.min(image.header.size - offset).min(image.cluster() - offset % image.cluster());
            match image.entry(offset >> image.header.cluster_bits)? {
                Entry::Missing => {}
                Entry::Zero(_) => return Ok((len, None)),
                entry => return Ok((len, Some((i, entry)))),
            }
        }
        Ok((len, None))
    }

    /// Where the data of a request are.
    pub(super) fn plan(&mut self, offset: u64, len: u32) -> Result<Plan, Errno> {
        if len > bounce::MOST {
            return Err(Errno::EINVAL);
        }
        let mut plan = Plan::default();
        let mut done = 0;
        let mut hidden = (0, Vec::new());
        while done < len {
            let (found, n) = self.find(0, offset + u64::from(done), (len - done).into())?;
            let n = small(n);
            match found {
                Found::File(file, at) => plan.add(Piece { file, offset: at, len: n }),
                Found::Zero => {
                    let piece = Piece { file: self.bounce_id, offset: done.into(), len: n };
                    plan.add(piece);
                }
                Found::Hidden => {
                    let slot = match plan.slot.take() {
                        Some(slot) => slot,
                        None => self.bounce.get()?,
                    };
                    let at = slot.at(done);
                    let slot = plan.slot.insert(slot);
                    // Each page is filled once: the second time it could have been swapped out.
                    let (start, data) = &mut hidden;
                    if data.is_empty() || done - *start - small(data.len() as u64) >= MOST_PAGE {
                        slot.fill(*start, data)?;
                        data.clear();
                        *start = done;
                    }
                    let from = (done - *start) as usize;
                    data.resize(from + n as usize, 0);
                    self.copy(0, offset + u64::from(done), &mut hidden.1[from..])?;
                    plan.add(Piece { file: self.bounce_id, offset: at, len: n });
                }
            }
            done += n;
        }
        if let Some(slot) = &plan.slot {
            slot.fill(hidden.0, &hidden.1)?;
        }
        Ok(plan)
    }

    /// See [`Bounce::used()`].
    #[cfg(test)]
    pub(super) fn bounced(&self) -> (u64, usize, u64) {
        self.bounce.used()
    }

    /// A cluster for cluster `n` of the disk that has the data of the disk, as `n` has it not
    /// for itself; with `all`, all of it will be zero, whatever it is now. Returns where.
    fn renew(&mut self, n: u64, old: Entry, all: bool, changes: &mut Changes) -> Result<u64, Errno> {
        let image = self.top();
        let (cluster, size) = (image.cluster(), image.header.size);
        let start = n << image.header.cluster_bits;
        if let Entry::Zero(Some(Cluster { at, own: true })) = old {
            image.check_writable(Cluster { at, own: true })?;
            changes.written = true;
            image.disk.zero(at, at + cluster)?;
            changes.entries.push((n, entry::own(at)));
            return Ok(at);
        }
        let at = image.take()?;
        let i = changes.taken.len();
        changes.taken.push((changes.entries.len(), at, false));
        changes.entries.push((n, entry::own(at)));
        if all || matches!(old, Entry::Zero(_)) {
            return Ok(at);
        }
        let mut data = vec![0; usize::try_from(cluster.min(size - start)).unwrap_or(usize::MAX)];
        self.copy(0, start, &mut data)?;
        if data.iter().all(|byte| *byte == 0) {
            return Ok(at);
        }
        (changes.written, changes.taken[i].2) = (true, true);
        self.top().disk.write(at, &data)?;
        Ok(at)
    }

    /// Change entries, after `result`. If there is an error, what is not needed is given back.
    fn publish(&mut self, changes: &Changes, mut result: Result<(), Errno>) -> Result<(), Errno> {
        if result.is_ok() && changes.written {
            result = self.top().disk.sync();
        }
        let result = result.map_err(|errno| (errno, 0)).and_then(|()| self.top().publish(&changes.entries));
        result.map_err(|(errno, named)| {
            // In the order in which they will be taken again.
            for (i, at, written) in changes.taken.iter().rev() {
                if *i >= named {
                    self.top().give_back(*at, *written);
                }
            }
            errno
        })
    }

    /// Each cluster of this range of the disk can be written. Where in the file are they?
    ///
    /// What the disk has there stays the same. When the tables name a new cluster, its data are
    /// on the medium already, whatever happens then; and tables are written at once, so that a
    /// server that is killed leaves all of it to the next one.
    pub(super) fn prepare(&mut self, offset: u64, len: u32) -> Result<Vec<Piece>, Errno> {
        let end = self.check_range(offset, len)?;
        let bits = self.top().header.cluster_bits;
        let mut changes = Changes::default();
        let result =
            (offset >> bits..end.div_ceil(1 << bits)).try_for_each(|n| match self.top().entry(n)? {
                Entry::Data(data) if data.own => self.top().check_writable(data),
                old => self.renew(n, old, false, &mut changes).map(drop),
            });
        self.publish(&changes, result)?;
        self.pieces(offset, len)
    }

    /// Where a range that is to be written ends, if it can be.
    fn check_range(&mut self, offset: u64, len: u32) -> Result<u64, Errno> {
        let size = self.top().header.size;
        let end = offset.checked_add(len.into()).filter(|end| *end <= size).ok_or(Errno::EINVAL)?;
        self.top().begin_writing()?;
        Ok(end)
    }

    /// Where in the file a range is that can be written.
    fn pieces(&mut self, offset: u64, len: u32) -> Result<Vec<Piece>, Errno> {
        let image = self.top();
        let (bits, cluster) = (image.header.cluster_bits, image.cluster());
        let mut plan = Plan::default();
        let mut done = 0;
        while done < len {
            let at = offset + u64::from(done);
            let within = at & (cluster - 1);
            let Entry::Data(data) = image.entry(at >> bits)? else { return Err(Errno::EIO) };
            let n = small(cluster - within).min(len - done);
            plan.add(Piece { file: image.id, offset: data.at + within, len: n });
            done += n;
        }
        Ok(plan.pieces)
    }

    /// Zero a range of the disk, as far as tables can. Which pieces of the file are left to be
    /// zeroed? With `discard`, what is not easily zeroed stays as it is.
    pub(super) fn zero(&mut self, offset: u64, len: u32, discard: bool) -> Result<Vec<Piece>, Errno> {
        let end = self.check_range(offset, len)?;
        let mut left = Plan::default();
        let mut changes = Changes::default();
        let result = self.zero_clusters(offset..end, discard, &mut left, &mut changes);
        self.publish(&changes, result)?;
        Ok(left.pieces)
    }

    fn zero_clusters(
        &mut self,
        range: Range<u64>,
        discard: bool,
        left: &mut Plan,
        changes: &mut Changes,
    ) -> Result<(), Errno> {
        let Header { cluster_bits: bits, size, version, .. } = self.top().header;
        let (cluster, id) = (1u64 << bits, self.top().id);
        let Range { start: mut at, end } = range;
        while at < end {
            let n = at >> bits;
            let next = ((n + 1) << bits).min(end);
            let whole = at == n << bits && next == ((n + 1) << bits).min(size);
            let within = at & (cluster - 1);
            let mut rest =
                |host: u64| left.add(Piece { file: id, offset: host + within, len: small(next - at) });
            match self.top().entry(n)? {
                Entry::Data(data) if data.own => {
                    self.top().check_writable(data)?;
                    rest(data.at);
                }
                Entry::Zero(_) => {}
                _ if discard => {}
                Entry::Missing if self.is_zero_below(at, next - at)? => {}
                _ if whole && version >= 3 => changes.entries.push((n, Entry::NO_ROOM_ZERO)),
                old => rest(self.renew(n, old, whole, changes)?),
            }
            at = next;
        }
        Ok(())
    }

    /// Are there only zeroes in what the image builds upon?
    fn is_zero_below(&mut self, mut offset: u64, mut len: u64) -> Result<bool, Errno> {
        while len > 0 {
            let (found, n) = self.find(1, offset, len)?;
            if found != Found::Zero {
                return Ok(false);
            }
            offset += n;
            len -= n;
        }
        Ok(true)
    }
}

/// A file may end in the middle of a sector; behind that there are zeroes.
fn in_file(id: FileId, disk: &Disk, at: u64, len: u64) -> (Found, u64) {
    let there = disk.end().saturating_sub(at).min(len);
    match there & !511 {
        0 if there == 0 => (Found::Zero, len),
        0 => (Found::Hidden, len.min(512)),
        whole => (Found::File(id, at), whole),
    }
}

/// Names are relative to the directory of the image that has them.
fn resolve(image: &Path, backing: &BackingFile) -> PathBuf {
    image.parent().unwrap_or(Path::new("/")).join(&backing.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let backing = |name: &str| BackingFile { name: name.into(), format: Format::Raw };
        assert_eq!(resolve(Path::new("/a/b.qcow2"), &backing("c")), Path::new("/a/c"));
        assert_eq!(resolve(Path::new("/a/b.qcow2"), &backing("/c")), Path::new("/c"));
        assert_eq!(resolve(Path::new("b.qcow2"), &backing("../c")), Path::new("../c"));
    }

    #[test]
    fn pieces_are_joined() {
        let mut files = Files::default();
        let id = files.add(fs::File::open("/dev/null").unwrap());
        let mut plan = Plan::default();
        for (offset, len) in [(0, 512), (512, 512), (2048, 512), (1024, 512)] {
            plan.add(Piece { file: id, offset, len });
        }
        let got: Vec<_> = plan.pieces.iter().map(|piece| (piece.offset, piece.len)).collect();
        assert_eq!(got, [(0, 1024), (2048, 512), (1024, 512)]);
    }
}
