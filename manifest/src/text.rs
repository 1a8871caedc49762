//! Source files, and positions as byte ranges in them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Index of a file in [`Sources`]. Zero is always the root manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct FileId(pub u32);

/// A half-open byte range of one file. Offsets are bytes of the stored text (byte order mark included), so that a range
/// can be sliced from the file. Only the language server converts them to UTF-16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

impl Span {
    #[must_use]
    pub fn new(file: FileId, start: usize, end: usize) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { file, start: clamp(start), end: clamp(end) }
    }

    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    #[must_use]
    pub fn contains(self, offset: usize) -> bool {
        self.range().contains(&offset)
    }

    /// The span after text before it has grown or shrunk by `by` bytes.
    #[must_use]
    pub fn shifted(self, by: i32) -> Self {
        Self { start: self.start.saturating_add_signed(by), end: self.end.saturating_add_signed(by), ..self }
    }
}

/// A value and its position. Equality compares the value only, so that a moved line is not a change.
#[derive(Clone, Default)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: change(self.value), span: self.span }
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T> Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}

/// Why a file cannot be read. The text appears to the user after "cannot read `PATH`: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileProblem {
    Missing,
    /// Any other error, as the operating system's message ("permission denied", "is a directory").
    Unreadable(String),
}

/// File access of the pure crates. The CLI and the agent implement it with the disk, the language server with unsaved
/// buffers, tests with a map. Paths are relative to the manifest's folder, use `/`, and may contain `..`.
pub trait Files {
    /// # Errors
    /// When the file is absent or cannot be read.
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem>;

    /// The sorted names in a folder, with `true` for subfolders; used for modules in local folders.
    /// # Errors
    /// When the folder is absent or cannot be read.
    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem>;
}

/// One file of a parsed manifest.
#[derive(Clone, Debug)]
pub struct Source {
    /// Relative to the manifest's folder; `pdev.yaml` for the root.
    pub path: String,
    pub text: Arc<str>,
    /// Byte offset of the start of each line.
    pub line_starts: Vec<u32>,
}

/// All files of a parsed manifest, by [`FileId`].
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

/// A position for display: one-based line and column; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineColumn {
    pub line: u32,
    pub column: u32,
}

impl Sources {
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        let text = text.into();
        let mut line_starts = vec![0];
        line_starts.extend(
            text.bytes()
                .enumerate()
                .filter(|&(_, byte)| byte == b'\n')
                .map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX)),
        );
        self.files.push(Source { path: path.into(), text, line_starts });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    #[must_use]
    pub fn get(&self, file: FileId) -> Option<&Source> {
        self.files.get(file.0 as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Source)> {
        self.files.iter().enumerate().map(|(index, source)| (FileId(u32::try_from(index).unwrap_or(u32::MAX)), source))
    }

    #[must_use]
    pub fn slice(&self, span: Span) -> &str {
        self.get(span.file).and_then(|source| source.text.get(span.range())).unwrap_or_default()
    }

    #[must_use]
    pub fn position(&self, file: FileId, offset: usize) -> LineColumn {
        let Some(source) = self.get(file) else { return LineColumn { line: 1, column: 1 } };
        let line = source.line_starts.partition_point(|&start| start as usize <= offset).max(1) - 1;
        let start = source.line_starts.get(line).copied().unwrap_or_default() as usize;
        let before = source.text.get(start..offset.min(source.text.len())).unwrap_or_default();
        let characters = before.trim_start_matches('\u{feff}').chars().count();
        let count = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        LineColumn { line: count(line), column: count(characters) }
    }
}
