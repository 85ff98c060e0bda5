// Texts whose contrast is below 4.5 to 1, with that figure. By the formulas of WCAG 2.2.
() => {
  const MIN = 4.5;
  const parts = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const linear = (part) => (part <= 0.04045 * 255 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const clear = (colour) => colour.length === 4 && colour[3] === 0;
  function ground(element) {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (!clear(colour)) return colour;
    }
    return [255, 255, 255];
  }
  const found = [];
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent.trim()).join(" ");
    if (!own.trim() || !element.checkVisibility() || element.matches(":disabled, option")) continue;
    const [a, b] = [parts(getComputedStyle(element).color), ground(element)].map(light).sort((x, y) => x - y);
    const ratio = (b + 0.05) / (a + 0.05);
    if (ratio < MIN) found.push(`${ratio.toFixed(2)} ${element.tagName} ${own.slice(0, 40)}`);
  }
  return found;
}
