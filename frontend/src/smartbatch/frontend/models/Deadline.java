package smartbatch.frontend.models;

import java.util.Map;

/** When a client stops waiting, as its headers say it; the handler reads them in the same way. */
final class Deadline {
    /** As `handler/smartbatch_worker/contract/headers.py` has them. */
    private static final String START = "X-Request-Start";

    private static final String BUDGET_MS = "X-Request-Deadline-Ms";
    /** A start further in the future is another clock's, or made up. */
    private static final double MAX_CLOCK_AHEAD_S = 1.0;

    private Deadline() {}

    /**
     * Whether it has passed; never where a header is no number of at least 0, which is for the handler to say.
     *
     * @param arrivalNanos when the request came, by {@link System#nanoTime}: the budget's start unless a header has it.
     */
    static boolean hasPassed(Map<String, String> headers, long arrivalNanos) {
        String budget = null;
        String start = null;
        for (Map.Entry<String, String> header : headers.entrySet()) {
            String name = header.getKey();
            if (BUDGET_MS.equalsIgnoreCase(name)) {
                budget = header.getValue();
            } else if (START.equalsIgnoreCase(name)) {
                start = header.getValue();
            }
        }
        if (budget == null) {
            return false;
        }
        try {
            double nowS = System.currentTimeMillis() / 1e3;
            double startS = start == null ? Double.MAX_VALUE : number(start);
            if (startS > nowS + MAX_CLOCK_AHEAD_S) {
                startS = nowS - (System.nanoTime() - arrivalNanos) / 1e9;
            }
            return startS + number(budget) / 1e3 <= nowS;
        } catch (NumberFormatException e) {
            return false;
        }
    }

    private static double number(String text) {
        String trimmed = text.trim();
        double value = Double.parseDouble(trimmed.startsWith("t=") ? trimmed.substring(2) : trimmed);
        if (!(value >= 0 && value < Double.MAX_VALUE)) {
            throw new NumberFormatException(text);
        }
        return value;
    }
}
