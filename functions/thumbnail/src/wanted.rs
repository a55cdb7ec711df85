//! What a caller wants: the box the image must fit into and its format.

/// Largest side of an answer, in pixels.
pub const SIDE_MAX: u32 = 1024;

const WIDTH_DEFAULT: u32 = 320;

/// The formats that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

/// A box and a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    width_max: u32,
    height_max: u32,
    /// The format of the answer; none means that of the input.
    pub format: Option<Format>,
}

impl Wanted {
    /// Reads `width=200&height=100&format=jpeg`.
    ///
    /// # Errors
    /// A sentence that names the parameter and what it may be. It never quotes the input.
    pub fn parse(query: &str) -> Result<Self, String> {
        let (mut width, mut height, mut format) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("width", value) => width = Some(side("width", value)?),
                ("height", value) => height = Some(side("height", value)?),
                ("format", "jpeg" | "jpg") => format = Some(Format::Jpeg),
                ("format", "png") => format = Some(Format::Png),
                ("format", _) => return Err("format is jpeg or png".to_owned()),
                _ => return Err("the parameters are width, height and format".to_owned()),
            }
        }
        let width_default = if height.is_none() { WIDTH_DEFAULT } else { SIDE_MAX };
        Ok(Self { width_max: width.unwrap_or(width_default), height_max: height.unwrap_or(SIDE_MAX), format })
    }

    /// Returns the largest size of the aspect `width` x `height` that fits into the box, never larger than it is.
    #[must_use]
    pub fn size(&self, width: u32, height: u32) -> (u32, u32) {
        let scale_x = f64::from(self.width_max) / f64::from(width.max(1));
        let scale_y = f64::from(self.height_max) / f64::from(height.max(1));
        let scale = scale_x.min(scale_y).min(1.0);
        (scaled(width, scale), scaled(height, scale))
    }
}

/// Returns `side * scale` rounded, at least 1; `scale` is at most 1.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the product lies between 0 and `side`")]
fn scaled(side: u32, scale: f64) -> u32 {
    ((f64::from(side) * scale).round() as u32).max(1)
}

fn side(name: &str, value: &str) -> Result<u32, String> {
    match value.parse::<u32>() {
        Ok(pixels) if (1..=SIDE_MAX).contains(&pixels) => Ok(pixels),
        _ => Err(format!("{name} is a whole number from 1 to {SIDE_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_keeps_the_aspect_and_never_enlarges() {
        let size = |query: &str, w, h| Wanted::parse(query).unwrap().size(w, h);
        assert_eq!(size("width=200", 451, 300), (200, 133));
        assert_eq!(size("height=100", 451, 300), (150, 100));
        assert_eq!(size("width=200&height=100", 451, 300), (150, 100));
        assert_eq!(size("width=100&height=1000", 451, 300), (100, 67));
        assert_eq!(size("", 4000, 3000), (320, 240));
        assert_eq!(size("width=1024", 451, 300), (451, 300));
        assert_eq!(size("width=200", 1, 20_000), (1, 1024));
        assert_eq!(size("width=1", 20_000, 1), (1, 1));
    }

    #[test]
    fn the_format_is_optional() {
        assert_eq!(Wanted::parse("").unwrap().format, None);
        assert_eq!(Wanted::parse("format=jpg&width=5").unwrap().format, Some(Format::Jpeg));
        assert_eq!(Wanted::parse("format=png").unwrap().format, Some(Format::Png));
    }

    #[test]
    fn what_is_no_parameter_is_refused_with_what_is() {
        for query in ["width=0", "width=1025", "width=-1", "width=", "width", "width=2.5", "width=99999999999"] {
            assert_eq!(Wanted::parse(query).unwrap_err(), "width is a whole number from 1 to 1024", "{query}");
        }
        assert_eq!(Wanted::parse("height=x").unwrap_err(), "height is a whole number from 1 to 1024");
        assert_eq!(Wanted::parse("format=gif").unwrap_err(), "format is jpeg or png");
        assert_eq!(Wanted::parse("size=3").unwrap_err(), "the parameters are width, height and format");
    }
}
