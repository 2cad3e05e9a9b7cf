"""Every picture and every table of figures in README and docs, from one run on one machine.

`measure` runs the benches and keeps what they found as JSON under docs/bench, `tables` makes Markdown of it, `render`
puts that between the markers in the documents. No figure between markers is typed by hand: a test renders them anew.
"""
