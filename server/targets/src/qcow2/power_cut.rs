// SPDX-License-Identifier: GPL-2.0

#[derive(Default)]
pub(super) struct Log;
impl Log {
    pub(super) fn write(&mut self, _: u64, _: &[u8]) {}
    pub(super) fn reach(&mut self, _: u64) {}
    pub(super) fn sync(&mut self) {}
}
