// What tools/epub.py does with a page of the built book in the browser: it becomes what a reader's device shows.

const HTML = 'http://www.w3.org/1999/xhtml';
const MATHML = 'http://www.w3.org/1998/Math/MathML';
// In a formula wider than this, lines may end after these, if enough stands before: no device breaks a formula.
const WIDE = 15; // times the size of the letters
const PIECE = 4;
const BREAKS = /^[=≈≠<>≤≥∼→≪≫∝≡+−,;⋅×]$/;
// A formula without such a place is set smaller on a narrow screen, in three steps.
const STEPS = { 20: 'wide', 26: 'wider', 34: 'widest' };
const NUMBER = 4; // as wide as the number of an equation, and a space
const THIN = '0.167em';

// Devices know the letters of these alphabets by their own numbers; most ignore what asks for them.
const ALPHABETS = {
  bold: [0x1d400, 0x1d41a, 0x1d7ce],
  italic: [0x1d434, 0x1d44e],
  'bold-italic': [0x1d468, 0x1d482],
  script: [0x1d49c, 0x1d4b6],
  'bold-script': [0x1d4d0, 0x1d4ea],
  fraktur: [0x1d504, 0x1d51e],
  'double-struck': [0x1d538, 0x1d552, 0x1d7d8],
  'sans-serif': [0x1d5a0, 0x1d5ba, 0x1d7e2],
  monospace: [0x1d670, 0x1d68a, 0x1d7f6],
};
const GREEK = { bold: [0x1d6a8, 0x1d6c2], 'bold-italic': [0x1d71c, 0x1d736] };
// Letters that had a number before their alphabet got one.
const OLDER = {
  script: 'BℬEℰFℱHℋIℐLℒMℳRℛeℯgℊoℴ',
  fraktur: 'CℭHℌIℑRℜZℨ',
  'double-struck': 'CℂHℍNℕPℙQℚRℝZℤ',
  italic: 'hℎ',
};

function letter(character, alphabet) {
  const old = OLDER[alphabet]?.indexOf(character) ?? -1;
  if (old >= 0 && old % 2 === 0) return OLDER[alphabet][old + 1];
  const code = character.codePointAt(0);
  const [large, small, digit] = ALPHABETS[alphabet];
  if (code >= 65 && code <= 90) return String.fromCodePoint(large + code - 65);
  if (code >= 97 && code <= 122) return String.fromCodePoint(small + code - 97);
  if (digit && code >= 48 && code <= 57) return String.fromCodePoint(digit + code - 48);
  const greek = GREEK[alphabet];
  if (greek && code >= 0x391 && code <= 0x3a9) return String.fromCodePoint(greek[0] + code - 0x391);
  if (greek && code >= 0x3b1 && code <= 0x3c9) return String.fromCodePoint(greek[1] + code - 0x3b1);
  return character;
}

// MathJax's MathML as devices take it.
function tidy(math) {
  for (const e of [math, ...math.querySelectorAll('*')]) {
    for (const { name } of [...e.attributes]) {
      if (name.startsWith('data-') || name === 'class') e.removeAttribute(name);
    }
    for (const node of [...e.childNodes]) {
      if (node.nodeType === Node.TEXT_NODE && e.children.length) node.remove();
    }
    const alphabet = e.getAttribute('mathvariant');
    if (ALPHABETS[alphabet] && !e.children.length) {
      e.removeAttribute('mathvariant');
      e.textContent = Array.from(e.textContent, (one) => letter(one, alphabet)).join('');
    }
  }
  for (const table of math.querySelectorAll('mtable')) {
    // Sphinx and the author both ask for aligned lines: the outer table has one cell, the inner table.
    if (table.querySelector(':scope > mtr:only-child > mtd:only-child > mtable:only-child')) {
      table.replaceWith(table.querySelector('mtable'));
      continue;
    }
    const sides = (table.getAttribute('columnalign') ?? 'center').split(' ');
    if (table.getAttribute('columnspacing') === '0em') table.setAttribute('class', 'close');
    for (const row of table.children) {
      [...row.children].forEach((cell, k) => cell.setAttribute('class', sides[Math.min(k, sides.length - 1)]));
    }
  }
}

// What must not begin or end a line beside a formula.
const AFTER = /^(?:[.,;:!?)\]”’]+|-\p{L}{1,4}\b)/u;
const BEFORE = /[(\[“‘]+$/;

// A formula in the text with the signs that belong to it: devices may end a line between.
function glued(box) {
  const [before, after] = [box.previousSibling, box.nextSibling];
  const [first, last] = [box.firstElementChild, box.lastElementChild];
  const signs = [
    before?.nodeType === Node.TEXT_NODE ? (BEFORE.exec(before.data)?.[0] ?? '') : '',
    after?.nodeType === Node.TEXT_NODE ? (AFTER.exec(after.data)?.[0] ?? '') : '',
  ];
  const wrap = (part, text, where) => {
    let span = part;
    if (part.localName === 'math') {
      span = document.createElement('span');
      span.className = 'glued';
      part.before(span);
      span.append(part);
    }
    span[where](text);
    return span;
  };
  if (signs[0]) {
    before.data = before.data.slice(0, -signs[0].length);
    const span = wrap(first, signs[0], 'prepend');
    if (signs[1] && first === last) span.append(signs[1]);
  }
  if (signs[1]) {
    after.data = after.data.slice(signs[1].length);
    if (!signs[0] || first !== last) wrap(last, signs[1], 'append');
  }
}

// The sign that a term is, if it is one: TeX's classes put some into rows of their own.
function sign(e) {
  if (e?.localName === 'mo') return e.textContent;
  return e?.localName === 'mrow' && e.children.length === 1 ? sign(e.children[0]) : '';
}
const isSign = (e, pattern) => pattern.test(sign(e));

// The spaces that TeX has and a device would set otherwise, since it knows a sign but not what it means.
function spaced(math) {
  const set = (e, left, right) => {
    e.setAttribute('lspace', left);
    e.setAttribute('rspace', right);
  };
  const space = () => {
    const one = document.createElementNS(MATHML, 'mspace');
    one.setAttribute('width', THIN);
    return one;
  };
  const blank = (e) => e.localName === 'mspace' || (e.children.length === 1 && blank(e.children[0]));
  // A term stands apart from the name of a function beside it, unless a sign, a space or a bracket is between.
  const term = (e) => e && !sign(e) && !blank(e);
  // A bar, which may bear a square, closes what an earlier one has opened.
  const isBar = (e) => isSign(/^msu[bp]/.test(e?.localName) ? e.firstElementChild : e, /^[|‖]$/);
  const nth = (e) => [...e.parentElement.children].filter(isBar).indexOf(e);
  const closes = (e) => isSign(e, /^[)\]}!′″⟩⌉⌋…⋯]$/) || (isBar(e) && nth(e) % 2 === 1);
  const opened = (e) => isSign(e, /^[([{|]/) || (e?.localName === 'mrow' && isSign(e.firstElementChild, /^[([{|]/));
  for (const e of math.querySelectorAll('mi, mo')) {
    let whole = e;
    while (/^(munder|mover|msub|msup|msubsup|munderover)$/.test(whole.parentElement.localName)) {
      if (whole !== whole.parentElement.firstElementChild) break;
      whole = whole.parentElement;
    }
    const before = whole.previousElementSibling;
    const inRow = /^(math|mrow|mstyle|msqrt|mtd|mpadded)$/.test(whole.parentElement.localName); // not in a fraction
    if (inRow && /^\p{L}{2,}$/u.test(e.textContent)) {
      if (e.localName === 'mo') set(e, '0', '0');
      let after = whole.nextElementSibling;
      if (isSign(after, /^\u2061$/)) after = after.nextElementSibling;
      if (term(after) && !opened(after)) after.before(space());
      if (term(before) || closes(before)) whole.before(space());
    }
    if (isSign(e, /^[|‖/.]$/)) set(e, '0', '0');
    if (isSign(e, /^[+−±∓]$/) && sign(before) && !closes(before)) e.setAttribute('form', 'prefix');
  }
}

// The row that holds the terms of a formula.
function row(math) {
  let inner = math;
  while (inner.children.length === 1 && /^(math|mrow|mstyle)$/.test(inner.localName)) inner = inner.children[0];
  return inner;
}

// What the terms of a formula take, times the size of the letters; the formula itself may be as wide as the page.
function extent(math) {
  const boxes = [...row(math).children].map((term) => term.getBoundingClientRect());
  if (!boxes.length) return row(math).getBoundingClientRect().width / 16;
  return (Math.max(...boxes.map((box) => box.right)) - Math.min(...boxes.map((box) => box.left))) / 16;
}

// A formula as several, between which a line may end; itself where there is no place for that.
function broken(math) {
  const terms = row(math);
  if (!/^(math|mrow|mstyle)$/.test(terms.localName)) return [math];
  const sizes = [...terms.children].map((term) => term.getBoundingClientRect().width / 16);
  const pieces = [[]];
  let size = 0;
  let open = 0; // brackets of plain size are terms of the row
  [...terms.children].forEach((term, k) => {
    pieces.at(-1).push(term);
    size += sizes[k];
    if (isSign(term, /^[([{]$/)) open += 1;
    if (isSign(term, /^[)\]}]$/)) open -= 1;
    const last = sizes.slice(k + 1).reduce((sum, one) => sum + one, 0) < PIECE;
    if (isSign(term, BREAKS) && size >= PIECE && !last && (open <= 0 || size > WIDE)) {
      pieces.push([]);
      size = 0;
    }
  });
  if (pieces.length === 1) return [math];
  return pieces.map((piece) => {
    const part = document.createElementNS(MATHML, 'math');
    if (math.getAttribute('display') === 'block') part.setAttribute('displaystyle', 'true');
    for (const term of piece) {
      if (term.localName === 'mo' && isSign(term, BREAKS) && term === piece.at(-1)) {
        term.setAttribute('form', 'infix');
      }
    }
    part.append(...piece);
    return part;
  });
}

async function formulas(main, found) {
  const made = [];
  for (const box of main.querySelectorAll('span.math, div.math')) {
    const texts = [...box.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const text = texts.map((node) => node.data).join('').trim();
    if (!/^(\\\(.*\\\)|\\\[.*\\\])$/s.test(text)) {
      found.push(`a formula is not in TeX: ${text.slice(0, 60)}`);
      continue;
    }
    const tex = text.slice(2, -2).trim();
    const source = await MathJax.tex2mmlPromise(tex, { display: text.startsWith('\\[') });
    const math = new DOMParser().parseFromString(source, 'application/xml').documentElement;
    if (math.querySelector('merror')) found.push(`formula in error: ${tex.slice(0, 60)}`);
    if (math.querySelector('mtext[mathcolor="red"]')) found.push(`unknown command in a formula: ${tex.slice(0, 60)}`);
    spaced(math);
    tidy(math);
    math.setAttribute('alttext', tex.replace(/\s+/g, ' '));
    texts.forEach((node) => node.remove());
    box.append(document.importNode(math, true));
    made.push(box);
  }
  // All are measured before any is changed.
  const sizes = made.map((box) => extent(box.lastElementChild));
  const parts = made.map((box, k) => (sizes[k] > WIDE ? broken(box.lastElementChild) : [box.lastElementChild]));
  const step = (size) => STEPS[Object.keys(STEPS).findLast((least) => size > least)] ?? '';
  made.forEach((box, k) => {
    const display = box.localName === 'div';
    box.className = display ? 'math' : '';
    if (parts[k].length > 1) {
      box.lastElementChild.remove();
      parts[k].forEach((part) => box.append(part, document.createElement('wbr')));
      box.lastElementChild.remove();
    } else {
      const near = box.querySelector('.eqno') && step(sizes[k] + NUMBER) ? 'near' : '';
      box.className = `${box.className} ${step(sizes[k]) || near}`.trim();
    }
    if (!box.className) box.removeAttribute('class');
  });
  // A part that is still wide is set smaller, and has a line of its own.
  const many = made.map((box, k) => [box, parts[k]]).filter(([, several]) => several.length > 1);
  const wide = many.flatMap(([, several]) => several.map((part) => [part, step(extent(part))]));
  for (const [part, kind] of wide) {
    if (!kind) continue;
    const line = document.createElement('span');
    line.className = kind;
    part.before(line);
    line.append(part);
  }
  for (const box of made) {
    if (box.localName === 'div' || box.className) continue;
    glued(box);
    if (!box.id) box.replaceWith(...box.childNodes);
  }
  return { formulas: made.length, broken: many.length };
}

// A drawing as a file of its own: black on white, whatever the colours of the device.
function drawing(svg) {
  const copy = svg.cloneNode(true);
  copy.removeAttribute('style');
  const [, , width, height] = copy.getAttribute('viewBox').split(' ');
  const paper = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  for (const [key, value] of Object.entries({ width, height, fill: '#fff' })) paper.setAttribute(key, value);
  copy.prepend(paper);
  copy.setAttribute('fill', '#000');
  copy.setAttribute('style', 'stroke-linejoin:round');
  for (const e of copy.querySelectorAll('use, image')) {
    const place = e.getAttribute('href');
    e.removeAttribute('href');
    e.setAttributeNS('http://www.w3.org/1999/xlink', 'xlink:href', place);
  }
  return new XMLSerializer()
    .serializeToString(copy)
    .replace(/currentColor/gi, '#000')
    .replace(/var\(--kexue-paper,\s*#fff\)/g, '#fff');
}

function pictures(main, found) {
  const files = [];
  const picture = (old, alt, kind, content) => {
    const image = document.createElement('img');
    if (!alt) found.push('a picture without a description');
    image.setAttribute('alt', alt ?? '');
    const width = old.getAttribute('width');
    if (width) image.setAttribute('width', width);
    image.setAttribute('src', `picture:${files.length}`);
    files.push([kind, content]);
    old.replaceWith(image);
  };
  for (const svg of main.querySelectorAll('svg')) {
    const box = svg.parentElement.closest('[role="img"]');
    picture(svg, svg.getAttribute('aria-label') ?? box?.getAttribute('aria-label'), 'svg', drawing(svg));
  }
  for (const image of main.querySelectorAll('img:not([src^="picture:"])')) {
    const source = image.getAttribute('src');
    const [, kind, data] = source.match(/^data:image\/(\w+);base64,(.*)$/s) ?? [];
    picture(image, image.getAttribute('alt'), data ? kind : 'file', data ?? source);
  }
  return files;
}

function unwrap(e) {
  e.replaceWith(...e.childNodes);
}

// Of the colours of code remain two: words of the language, and remarks.
function code(main) {
  for (const e of main.querySelectorAll('pre span')) {
    const kind = /^(k|ow|c)/.exec(e.className)?.[1];
    if (!kind || !e.textContent) unwrap(e);
    else e.className = kind === 'c' ? 'remark' : 'word';
  }
  for (const pre of main.querySelectorAll('pre')) {
    let box = pre;
    while (box.parentElement.childElementCount === 1 && /\bhighlight/.test(box.parentElement.className)) {
      box = box.parentElement;
    }
    const inner = document.createElement('code');
    inner.append(...pre.childNodes);
    inner.normalize();
    pre.append(inner);
    if (box !== pre) box.replaceWith(pre);
  }
  for (const e of main.querySelectorAll('code span.pre')) unwrap(e);
}

function folded(box, words) {
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  summary.textContent = words;
  details.append(summary, ...box.childNodes);
  details.className = box.className;
  if (box.id) details.id = box.id;
  box.replaceWith(details);
}

// A check has six columns, too many for a small screen: it is told as a card.
function claims(main) {
  for (const table of main.querySelectorAll('table.kexue-claims')) {
    const labels = [...table.querySelectorAll('thead th')].map((cell) => cell.textContent.trim());
    const cards = [...table.querySelectorAll('tbody tr')].map((row) => {
      const card = document.createElement('div');
      card.className = 'claim';
      [...row.cells].forEach((cell, k) => {
        const part = document.createElement('div');
        part.append(...cell.childNodes);
        if (k > 1) {
          const label = document.createElement('span');
          label.className = 'label';
          label.textContent = `${labels[k]}: `;
          const first = part.firstElementChild;
          if (first?.localName === 'p') first.prepend(label);
          else part.prepend(label);
        }
        if (part.textContent.trim()) card.append(part);
      });
      return card;
    });
    (table.closest('.pst-scrollable-table-container') ?? table).replaceWith(...cards);
  }
}

function links(main) {
  for (const p of main.querySelectorAll('p')) {
    const all = p.querySelectorAll('a');
    // A line that only offers files.
    if (all.length && [...all].every((a) => a.dataset.dropped !== undefined)) p.remove();
  }
  for (const a of main.querySelectorAll('a')) {
    if (a.dataset.dropped !== undefined || !a.getAttribute('href')) unwrap(a);
    else a.removeAttribute('title');
  }
}

const KEPT = /^(math|glued|near|wide|wider|widest|word|remark|label|claim|eqno|cell_output|pst-scrollable-table-container|kexue-.*|proved|computed|supported)$/;
const ALSO =
  /^(admonition|admonition-title|exercise|solution|proof|citation|caption-number|section-number|rubric|sig|field-list|hide)$/;

function lean(main) {
  for (const e of main.querySelectorAll('*')) {
    if (e.namespaceURI !== HTML) continue;
    for (const { name } of [...e.attributes]) {
      if (/^(data-|aria-|on|tabindex|role|style|hidden)/.test(name)) e.removeAttribute(name);
    }
    if (!e.hasAttribute('class')) continue;
    const kept = [...e.classList].filter((word) => KEPT.test(word) || ALSO.test(word));
    if (kept.length) e.className = kept.join(' ');
    else e.removeAttribute('class');
  }
  const loose = 'span:not([id]):not([class]), div:not([id]):not([class]), section:not([id]):not([class])';
  for (const e of main.querySelectorAll(loose)) if (e.namespaceURI === HTML) unwrap(e);
  for (const e of main.querySelectorAll('colgroup, p:empty')) if (!e.id) e.remove();
}

// One page: its XHTML, headings (level, id, words), pictures (kind, content), and what is wrong with it.
async function page(source) {
  const main = document.querySelector('main');
  const found = [];
  main.innerHTML = source;
  const gone = 'script, style, form, button, .kexue-slider > div, [hidden], .citation > .label';
  for (const e of main.querySelectorAll(gone)) e.remove();
  for (const e of main.querySelectorAll('details.hide')) {
    e.querySelector('summary').remove();
    folded(e, 'Code');
  }
  for (const e of main.querySelectorAll('.solution.dropdown')) {
    const title = e.querySelector('.admonition-title');
    const words = title.textContent.replace(/\s+/g, ' ').trim();
    title.remove();
    folded(e, words);
  }
  claims(main);
  links(main);
  code(main);
  const counts = await formulas(main, found);
  const files = pictures(main, found);
  lean(main);
  const heads = [...main.querySelectorAll('h1, h2')].map((e) => [
    Number(e.localName[1]),
    e.closest('section')?.id ?? '',
    e.textContent.replace(/\s+/g, ' ').trim(),
  ]);
  const text = new XMLSerializer().serializeToString(main);
  main.replaceChildren();
  return { text, heads, files, found, counts };
}
