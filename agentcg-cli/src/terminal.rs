//! A terminal that shows a picture which is drawn again and again.

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

/// The columns of standard output, when it is a terminal.
pub fn width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// The other screen of the terminal, and keys as they are pressed; put back when it is dropped.
#[derive(Debug)]
pub struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// `None` when standard output is no terminal.
    ///
    /// # Errors
    /// Those of writing.
    pub fn open() -> io::Result<Option<Self>> {
        if !io::stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut mode) = before.clone() {
            mode.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            // Stopped, it would leave the terminal like this.
            mode.special_codes[SpecialCodeIndex::VSUSP] = 0;
            mode.special_codes[SpecialCodeIndex::VMIN] = 0;
            mode.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
        }
        let screen = Self { before };
        // The other screen, no cursor.
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(Some(screen))
    }

    /// Keys can be read.
    pub fn has_keys(&self) -> bool {
        self.before.is_some()
    }

    /// The keys that were pressed; empty also when there is no more to come.
    pub fn keys(&self) -> Vec<u8> {
        let mut buf = [0; 64];
        let n = io::stdin().lock().read(&mut buf).unwrap_or(0);
        buf[..n].to_vec()
    }

    /// Draws a picture, as much of it as there is room for.
    ///
    /// # Errors
    /// Those of writing.
    pub fn draw(&self, text: &str) -> io::Result<()> {
        let rows = tcgetwinsize(io::stdout()).map_or(24, |s| usize::from(s.ws_row)).max(1);
        let lines: Vec<_> = text.lines().take(rows).map(|l| format!("{l}\x1b[K")).collect();
        write(&format!("\x1b[H{}\x1b[J", lines.join("\r\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
