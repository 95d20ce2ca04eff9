// SPDX-License-Identifier: GPL-2.0

//! Secondaries that are prepared and wait to be issued.

use core::{
    iter::successors,
    ptr::{
        addr_of_mut,
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    container_of,
    prelude::*, //
};

/// Flags that the completion path must not act on when it completes a secondary that was never
/// issued: its group does not count it, and a malformed one may have flags that make no sense.
const NOT_WHEN_CANCELED: u64 = bindings::REQ_F_FUSED as u64
    | bindings::REQ_F_LINK as u64
    | bindings::REQ_F_HARDLINK as u64
    | bindings::REQ_F_IO_DRAIN as u64
    | bindings::REQ_F_BUFFER_SELECT as u64;

/// A chain of secondaries through `io_kiocb::comp_list`, which nobody else uses before they are
/// issued.
///
/// # Invariants
///
/// The list consists of the `comp_list` of requests that are prepared, not issued, in no other
/// list, and only reached through this chain.
#[must_use]
pub(crate) struct Chain(bindings::io_wq_work_list);

impl Chain {
    pub(crate) const fn new() -> Self {
        // INVARIANT: There are none.
        Chain(bindings::io_wq_work_list {
            first: null_mut(),
            last: null_mut(),
        })
    }

    /// # Safety
    ///
    /// `list` must come from [`Self::into_raw`] and not be used again.
    pub(crate) unsafe fn from_raw(list: bindings::io_wq_work_list) -> Self {
        // INVARIANT: By the safety requirement.
        Chain(list)
    }

    pub(crate) fn into_raw(self) -> bindings::io_wq_work_list {
        self.0
    }

    /// # Safety
    ///
    /// `req` is a prepared request that is not issued and in no list, and is left alone until it is
    /// popped.
    pub(crate) unsafe fn push(&mut self, req: NonNull<bindings::io_kiocb>) {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement nobody else uses the list node.
        unsafe {
            bindings::wq_list_add_tail(
                addr_of_mut!((*req.as_ptr()).__bindgen_anon_3.comp_list),
                &mut self.0,
            )
        };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.first.is_null()
    }

    pub(crate) fn pop(&mut self) -> Option<NonNull<bindings::io_kiocb>> {
        let node = NonNull::new(self.0.first)?;
        // SAFETY: By the type invariant the node is part of a live request.
        self.0.first = unsafe { (*node.as_ptr()).next };
        // SAFETY: As above.
        Some(unsafe { Self::request(node) })
    }

    /// The requests, in their order.
    pub(crate) fn requests(&self) -> impl Iterator<Item = NonNull<bindings::io_kiocb>> + '_ {
        let first = NonNull::new(self.0.first);
        // SAFETY: By the type invariant the nodes are part of live requests, and nobody else
        // changes the list while this refers to it.
        let nodes = successors(first, |node| NonNull::new(unsafe { (*node.as_ptr()).next }));
        // SAFETY: They are in the list.
        nodes.map(|node| unsafe { Self::request(node) })
    }

    /// The request of a node.
    ///
    /// # Safety
    ///
    /// `node` is in the list of a chain.
    pub(crate) unsafe fn request(
        node: NonNull<bindings::io_wq_work_node>,
    ) -> NonNull<bindings::io_kiocb> {
        // SAFETY: By the type invariant the node is the `comp_list` of a request, so this is in
        // the same object, and not null.
        unsafe {
            NonNull::new_unchecked(container_of!(
                node.as_ptr().cast::<bindings::io_wq_work_node>(),
                bindings::io_kiocb,
                __bindgen_anon_3.comp_list
            ))
        }
    }

    /// Complete all requests of the chain with `-ECANCELED`, in their order.
    ///
    /// # Safety
    ///
    /// The `uring_lock` of the requests' ring is held.
    pub(crate) unsafe fn cancel(mut self, post_cqes: bool) {
        while let Some(req) = self.pop() {
            let req = req.as_ptr();
            // SAFETY: By the type invariant the request is ours. `uring_lock` is held.
            unsafe {
                (*req).flags &= !NOT_WHEN_CANCELED;
                bindings::io_req_defer_failed(req, ECANCELED.to_errno());
                if !post_cqes {
                    (*req).flags |= bindings::REQ_F_CQE_SKIP as u64;
                }
            }
        }
    }
}
