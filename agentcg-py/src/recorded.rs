use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;

use pyo3::BoundObject;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error;
use crate::events::{UNKNOWN, classes};

/// The event of one line of JSON; fields that are not known yet are ignored.
#[pyfunction]
pub(crate) fn read_event<'py>(line: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let py = line.py();
    let text = line.encode_utf8()?;
    let mut json = serde_json::Deserializer::from_slice(text.as_bytes());
    let read = json.deserialize_map(Object(py)).and_then(|read| json.end().map(|()| read));
    let (kind, found) = read.map_err(|e| {
        let line = line.to_string_lossy();
        error::invalid(py, format!("invalid event {:.100}: {e}", line.trim()))
    })?;
    let classes = classes(py)?;
    let Some(class) = classes[..UNKNOWN].iter().find(|class| class.1 == kind) else {
        return classes[UNKNOWN].0.bind(py).call1((kind, line));
    };
    // As a rule they come in the order of the class, and only some are absent.
    let mut next = 0;
    let mut value = |name: &String| {
        let at = (next..found.len()).chain(0..next).find(|at| found[*at].0 == *name);
        next = at.map_or(next, |at| at + 1);
        at.map_or_else(|| py.None().into_bound(py), |at| found[at].1.clone())
    };
    class.0.bind(py).call1(PyTuple::new(py, class.2.iter().map(&mut value))?)
}

/// The kind of an event, and its fields by name.
struct Object<'py>(Python<'py>);

impl<'de, 'py> Visitor<'de> for Object<'py> {
    type Value = (Cow<'de, str>, Vec<(Cow<'de, str>, Bound<'py, PyAny>)>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a text `event`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kind = None;
        let mut found = Vec::with_capacity(20);
        while let Some(Text(name)) = map.next_key()? {
            if name == "event" {
                kind = Some(map.next_value::<Text<'_>>()?.0);
            } else {
                found.push((name, map.next_value_seed(Value(self.0))?));
            }
        }
        Ok((kind.ok_or_else(|| A::Error::missing_field("event"))?, found))
    }
}

/// Text that is copied only if something in it is escaped.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Any value, as Python has it: a list is a tuple, for events are hashable. An object is `None`: no
/// field is one.
#[derive(Clone, Copy)]
struct Value<'py>(Python<'py>);

impl<'py> Value<'py> {
    fn made<E>(
        self,
        value: impl IntoPyObject<'py, Error = Infallible>,
    ) -> Result<Bound<'py, PyAny>, E> {
        let Ok(made) = value.into_pyobject(self.0);
        Ok(made.into_any().into_bound())
    }
}

impl<'de, 'py> DeserializeSeed<'de> for Value<'py> {
    type Value = Bound<'py, PyAny>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, 'py> Visitor<'de> for Value<'py> {
    type Value = Bound<'py, PyAny>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.None().into_bound(self.0))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        self.made(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        self.made(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        self.made(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        self.made(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        self.made(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        PyTuple::new(self.0, values).map(Bound::into_any).map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.visit_unit()
    }
}
