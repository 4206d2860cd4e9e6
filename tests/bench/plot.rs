//! Plots as SVG, written by hand: bars, and shares of records by time.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
/// Where the names end and the plot begins.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 46.0;
const ROW: f64 = 22.0;
const STYLE: &str = "font-family=\"sans-serif\" font-size=\"12\"";

/// A bar: a name, whether it stands out, and least, median and most of what it measures.
pub struct Bar {
    /// Name.
    pub label: String,
    /// Drawn in the stronger colour.
    pub ours: bool,
    /// Least, median, most.
    pub values: (f64, f64, f64),
}

/// Groups of bars from left to right, each with its median, and a line from least to most.
pub fn bars(title: &str, unit: &str, digits: usize, groups: &[(String, Vec<Bar>)]) -> String {
    let rows: usize = groups.iter().map(|(_, bars)| bars.len() + 1).sum();
    let height = TOP + rows as f64 * ROW + 16.0;
    let values = groups.iter().flat_map(|(_, bars)| bars.iter().map(|bar| bar.values.2));
    let scale = (WIDTH - LEFT - RIGHT) / values.fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = open(height, title, unit);
    let mut y = TOP;
    for (name, bars) in groups {
        text(&mut svg, 8.0, y + 15.0, "start", "font-weight=\"bold\"", name);
        y += ROW;
        for bar in bars {
            let (least, median, most) = bar.values;
            let colour = if bar.ours { "#1f6f8b" } else { "#b8b8b8" };
            text(&mut svg, LEFT - 8.0, y + 14.0, "end", "", &bar.label);
            rect(&mut svg, y + 3.0, median * scale, colour);
            line(
                &mut svg,
                (LEFT + least * scale, y + 10.0),
                (LEFT + most * scale, y + 10.0),
                "#333",
            );
            let value = format!("{median:.digits$}");
            text(&mut svg, LEFT + most * scale + 6.0, y + 14.0, "start", "", &value);
            y += ROW;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// What share of the records took how long at most. Values in ascending order.
pub fn shares(title: &str, unit: &str, series: &[(String, &[f64])]) -> String {
    const HEIGHT: f64 = 320.0;
    const COLOURS: [&str; 3] = ["#1f6f8b", "#d1773c", "#666"];
    let (left, bottom) = (60.0, HEIGHT - 40.0);
    let most =
        series.iter().filter_map(|(_, values)| values.last()).fold(1.0, |a: f64, b| a.max(*b));
    let across = (WIDTH - left - 30.0) / most;
    let up = bottom - TOP - 10.0;
    let mut svg = open(HEIGHT, title, unit);
    for share in [0.0, 0.5, 0.9, 1.0] {
        let y = bottom - share * up;
        line(&mut svg, (left, y), (WIDTH - 30.0, y), "#ddd");
        text(&mut svg, left - 6.0, y + 4.0, "end", "", &format!("{:.0} %", share * 100.0));
    }
    for tenth in 0..=10 {
        let value = most * f64::from(tenth) / 10.0;
        text(&mut svg, left + value * across, bottom + 18.0, "middle", "", &format!("{value:.1}"));
    }
    for (number, (name, values)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: String = (0..=200)
            .map(|step| {
                let share = f64::from(step) / 200.0;
                let value = percentile(values, share);
                format!("{:.1},{:.1} ", left + value * across, bottom - share * up)
            })
            .collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{points}\"/>"
        )
        .expect("a String takes everything");
        let y = bottom - 12.0 - number as f64 * 18.0;
        text(&mut svg, WIDTH - 40.0, y, "end", &format!("fill=\"{colour}\""), name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The value that this share of the values does not exceed. The values in ascending order.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let last = values.len() - 1;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (last as f64 * share).round() as usize;
    values[index.min(last)]
}

fn open(height: f64, title: &str, unit: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" {STYLE}>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, 8.0, 20.0, "start", "font-size=\"15\" font-weight=\"bold\"", title);
    text(&mut svg, 8.0, 37.0, "start", "fill=\"#666\"", unit);
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>")
        .expect("a String takes everything");
}

fn rect(svg: &mut String, y: f64, width: f64, colour: &str) {
    writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"15\" fill=\"{colour}\"/>"
    )
    .expect("a String takes everything");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1,
    )
    .expect("a String takes everything");
}
