def render(ex): return ""
