# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""JavaScript expressions that tell what is wrong with the page that a browser shows: each is a list of places, empty where all is well."""

from __future__ import annotations

TOO_WIDE = "document.scrollingElement.scrollWidth > innerWidth ? ['the page'] : []"
OVERFLOWING = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('svg') && !e.classList.contains('scroll') && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 200))
"""
"""Text that does not fit where it stands."""
OUTSIDE = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const box = svg.viewBox.baseVal, sticksOut = b => b.x < -1 || b.y < -1 || b.x + b.width > box.width + 1 || b.y + b.height > box.height + 1
  return [...svg.querySelectorAll('text, rect, circle')].filter(e => box.width && sticksOut(e.getBBox()))
    .map(e => svg.getAttribute('aria-label') + ': ' + e.textContent)
})
"""
"""Parts of plots that are cut off."""
ON_TOP = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const all = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBBox()])
  const meet = (p, q) => p.x < q.x + q.width && q.x < p.x + p.width && p.y < q.y + q.height && q.y < p.y + p.height
  return all.flatMap(([a, p], i) => all.slice(i + 1).filter(([b, q]) => meet(p, q)).map(([b, q]) => a + ' / ' + b))
})
"""
"""Labels of plots that lie on each other."""
FAINT = """
(() => {
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4
  const light = c => c.match(/[\\d.]+/g).slice(0, 3).reduce((sum, v, i) => sum + linear(v / 255) * [.2126, .7152, .0722][i], 0)
  const under = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c } }
  const contrast = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
  const ink = e => getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color']
  return [...document.querySelectorAll('main *')]
    .filter(e => !/^(title|desc|style)$/.test(e.tagName) && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
    .filter(e => contrast(light(ink(e)), light(under(e))) < 4.5).map(e => e.outerHTML.slice(0, 100))
})()
"""
"""Text with less contrast than WCAG 2.1 wants (1.4.3, level AA)."""
UNNAMED = """
[...document.querySelectorAll("svg:not([aria-hidden])")]
  .filter(s => !s.querySelector(':scope > title') || !s.querySelector(':scope > desc'))
  .concat([...document.querySelectorAll('table')].filter(t => !t.caption || t.tBodies[0].rows.length && !t.querySelector('th[scope=row]')))
  .map(e => e.outerHTML.slice(0, 100))
"""
"""Plots and tables that do not say what they show."""
FOREIGN = """
[...document.querySelectorAll('*')].filter(e => /^(script|img|link|iframe|object|embed|base|form)$/i.test(e.tagName)
  || [...e.attributes].some(a => /^(on.*|href|src|style)$/.test(a.name))).map(e => e.outerHTML.slice(0, 100))
"""
"""Elements that do something, or need something from elsewhere."""
EVERY = (TOO_WIDE, OVERFLOWING, OUTSIDE, ON_TOP, FAINT, UNNAMED, FOREIGN)
