//! Documents that were made, compressed, for as long as the rows stay the same.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use registry::Registry;

/// One document.
#[derive(Clone, Debug)]
pub(super) struct Made {
    packed: Bytes,
    /// Without quotes.
    pub(super) etag: String,
}

impl Made {
    pub(super) fn new(plain: &[u8], etag: String) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Neither can fail: it is memory that is written to.
        let packed = encoder.write_all(plain).and_then(|()| encoder.finish()).unwrap_or_default();
        Self { packed: packed.into(), etag }
    }

    pub(super) fn packed(&self) -> Bytes {
        self.packed.clone()
    }

    pub(super) fn plain(&self) -> Bytes {
        let mut plain = Vec::new();
        if let Err(error) = GzDecoder::new(&*self.packed).read_to_end(&mut plain) {
            tracing::error!(%error, "a document cannot be unpacked");
        }
        plain.into()
    }
}

/// Documents by name, and the rows that they were made from.
type ByName = (Arc<Registry>, BTreeMap<String, Made>);

/// All that was made from the same rows.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Option<ByName>>);

impl Documents {
    /// The document under `name`; made when it is not there, or was made from other rows.
    pub(super) fn get(&self, registry: &Arc<Registry>, name: &str, make: impl FnOnce(&Registry) -> Made) -> Made {
        {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, documents)) = &*kept
                && Arc::ptr_eq(of, registry)
                && let Some(found) = documents.get(name)
            {
                return found.clone();
            }
        }
        let made = make(registry);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *kept {
            Some((of, documents)) if Arc::ptr_eq(of, registry) => {
                documents.insert(name.to_owned(), made.clone());
            }
            other => *other = Some((registry.clone(), BTreeMap::from([(name.to_owned(), made.clone())]))),
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_out_as_it_went_in() {
        let text = "definitions ".repeat(1000);
        let made = Made::new(text.as_bytes(), "E".to_owned());
        assert!(made.packed().len() < 200);
        assert_eq!(made.plain(), text.as_bytes());
    }
}
