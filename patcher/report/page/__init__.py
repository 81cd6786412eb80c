# SPDX-License-Identifier: Apache-2.0
"""The HTML page of every report: one template, one style, one table of what verdicts mean.

blocks    what a page is made of: tables, pictures, notes
page      a page, and its text
page.html.jinja, page.css  the template and the style
parts     what several reports show: classes, what was run
meaning   what each verdict means, and what to do next
pictures  pictures as part of the page, with captions that explain every mark
"""
