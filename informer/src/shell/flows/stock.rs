//! Stored JSON for one evaluation, and what it makes: bodies that are committed with its answer.

use crate::machine::PayloadHandle;
use crate::store::{Error, Read};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use workflow::evaluate::{self, Handle, Registry};

/// What an evaluation reads and makes.
pub(super) struct Stock<'r> {
    reader: RefCell<&'r mut dyn Read>,
    seen: RefCell<BTreeMap<Handle, (usize, Rc<Value>)>>,
    made: RefCell<Vec<(PayloadHandle, Bytes)>>,
    /// The store could not be read: no answer is any good.
    failed: RefCell<Option<Error>>,
}

impl<'r> Stock<'r> {
    pub(super) fn new(reader: &'r mut dyn Read) -> Self {
        Self {
            reader: RefCell::new(reader),
            seen: RefCell::default(),
            made: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    /// Reads, and remembers the first failure of the store.
    pub(super) fn read<T>(&self, query: impl FnOnce(&mut dyn Read) -> Result<T, Error>) -> Result<T, String> {
        query(&mut **self.reader.borrow_mut()).map_err(|error| {
            let message = error.to_string();
            self.failed.borrow_mut().get_or_insert(error);
            message
        })
    }

    /// Bytes of a body that was read or made here.
    pub(super) fn bytes_of(&self, handle: &Handle) -> usize {
        self.seen.borrow().get(handle).map_or(0, |(bytes, _)| *bytes)
    }

    /// Adds a body that was made elsewhere.
    pub(super) fn add(&self, bodies: impl IntoIterator<Item = (PayloadHandle, Bytes)>) {
        self.made.borrow_mut().extend(bodies);
    }

    /// What was made.
    ///
    /// # Errors
    /// The store failed meanwhile.
    pub(super) fn finish(self) -> Result<Vec<(PayloadHandle, Bytes)>, Error> {
        match self.failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.made.into_inner()),
        }
    }
}

impl evaluate::Bodies for Stock<'_> {
    fn get(&self, handle: &Handle) -> Result<Rc<Value>, String> {
        if let Some((_, value)) = self.seen.borrow().get(handle) {
            return Ok(Rc::clone(value));
        }
        let body = self.read(|reader| Ok(reader.payloads(&[handle.0])?.remove(&handle.0)))?;
        let body = body.ok_or_else(|| format!("the body {handle:?} is not stored"))?;
        let value: Value = serde_json::from_slice(&body).map_err(|error| format!("the body is no JSON: {error}"))?;
        let value = Rc::new(value);
        self.seen.borrow_mut().insert(*handle, (body.len(), Rc::clone(&value)));
        Ok(value)
    }

    fn put(&self, value: &Value) -> Result<Handle, String> {
        let (handle, body) = stored(value);
        self.seen.borrow_mut().entry(handle).or_insert_with(|| {
            let bytes = body.len();
            self.made.borrow_mut().push((handle.0, body));
            (bytes, Rc::new(value.clone()))
        });
        Ok(handle)
    }
}

impl Registry for Stock<'_> {
    fn task_definition(&self, name: &str) -> Option<Value> {
        let row = self.read(|reader| reader.task_definition(name)).ok()??;
        serde_json::from_slice(&row.json).ok()
    }
}

/// A value as it is stored, and its name.
pub(super) fn stored(value: &Value) -> (Handle, Bytes) {
    let text = value.to_string();
    (Handle(Sha256::digest(&text).into()), Bytes::from(text))
}
