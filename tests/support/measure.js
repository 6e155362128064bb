// What is wrong with the page that this runs in, as JSON in an element `measured`.
const boxed = (node) => {
  for (let up = node.parentElement; up; up = up.parentElement) {
    const style = getComputedStyle(up);
    if (style.overflowX === 'auto' || style.overflowX === 'scroll') return true;
  }
  return false;
};
const luminance = (rgb) => {
  // WCAG 2.1, relative luminance.
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.map((v) => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const numbers = (colour) => {
  const found = (colour.match(/[\d.]+/g) || []).map(Number);
  return found.length < 3 || found[3] === 0 ? null : found.slice(0, 3);
};
const contrast = (a, b) => {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + .05) / (low + .05);
};
const paper = (node) => {
  for (let up = node; up; up = up.parentElement) {
    const colour = numbers(getComputedStyle(up).backgroundColor);
    if (colour) return colour;
  }
  return [255, 255, 255];
};
const filled = (node) => {
  const style = getComputedStyle(node);
  if (style.fill === 'none' || Number(style.fillOpacity) * Number(style.opacity) < .5) return null;
  const pattern = style.fill.match(/url\("#([^"]+)"\)/);
  if (!pattern) return numbers(style.fill);
  const shape = document.getElementById(pattern[1])?.querySelector('rect');
  return shape ? numbers(getComputedStyle(shape).fill) : null;
};
const under = (text, box) => {
  const x = box.left + box.width / 2, y = box.top + box.height / 2;
  for (const node of document.elementsFromPoint(x, y)) {
    if (node === text || !node.closest('svg') || node.tagName === 'svg') continue;
    if (!['path', 'rect', 'use', 'polygon'].includes(node.tagName)) continue;
    const colour = filled(node);
    if (colour) return colour;
  }
  return paper(text.closest('svg').parentElement);
};
const found = { width: innerWidth, page: document.documentElement.scrollWidth, wide: [], cut: [], over: [], faint: [], texts: 0 };
for (const node of document.body.querySelectorAll('*')) {
  const box = node.getBoundingClientRect();
  if (node.closest('svg') || node.tagName === 'SCRIPT') continue;
  if (box.width && box.right > innerWidth + 1 && !boxed(node)) found.wide.push(node.tagName + ' ' + node.className);
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own) continue;
  found.texts += 1;
  const ratio = contrast(numbers(getComputedStyle(node).color), paper(node));
  if (ratio < 4.5) found.faint.push([node.textContent.trim().slice(0, 40), Math.round(100 * ratio) / 100]);
}
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  const name = svg.getAttribute('aria-labelledby');
  const texts = [...svg.querySelectorAll('text')].filter((text) => text.textContent.trim());
  const boxes = texts.map((text) => text.getBoundingClientRect());
  texts.forEach((text, i) => {
    const box = boxes[i], said = text.textContent.trim();
    found.texts += 1;
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
      found.cut.push([name, said]);
    for (let j = 0; j < i; j++) {
      const wide = Math.min(box.right, boxes[j].right) - Math.max(box.left, boxes[j].left);
      const high = Math.min(box.bottom, boxes[j].bottom) - Math.max(box.top, boxes[j].top);
      // A line of text is taller than its letters: a fifth of it may lie over another's.
      if (wide > 1 && high > .2 * Math.min(box.height, boxes[j].height)) found.over.push([name, said, texts[j].textContent.trim()]);
    }
    if (!boxed(svg) || innerWidth > 1000) {
      const ratio = contrast(numbers(getComputedStyle(text).fill), under(text, box));
      if (ratio < 4.5) found.faint.push([name + ': ' + said, Math.round(100 * ratio) / 100]);
    }
  });
}
const told = document.createElement('pre');
told.id = 'measured';
told.textContent = JSON.stringify(found);
document.body.append(told);
