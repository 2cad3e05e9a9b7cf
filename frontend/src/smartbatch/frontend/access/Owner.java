package smartbatch.frontend.access;

import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.util.NetUtil;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import smartbatch.frontend.http.Answer;
import smartbatch.frontend.http.EarlyAnswer;

/**
 * Lets nobody else on this machine manage the server, and no page in its owner's browser.
 *
 * <p>A page may send simple requests anywhere, and with a name of its own that resolves to 127.0.0.1 it may even read
 * the answers; the browser then tells its origin, or that name as the host. Other machines' requests are left to tokens
 * where those are on.
 */
public final class Owner extends EarlyAnswer {
    private final Rules rules;
    private final boolean asksTokens;
    private String refusal;
    private boolean hasLooked;

    /** @param asksTokens whether tokens are asked for behind this handler. */
    public Owner(Rules rules, boolean asksTokens) {
        this.rules = rules;
        this.asksTokens = asksTokens;
    }

    @Override
    protected FullHttpResponse answer(ChannelHandlerContext context, HttpRequest request) {
        Channel channel = context.channel();
        if (asksTokens && !Rules.isNear(channel.remoteAddress())) {
            return null;
        }
        String site = request.headers().get("sec-fetch-site", "none");
        String origin = request.headers().get(HttpHeaderNames.ORIGIN, site.matches("none|same-origin") ? null : site);
        if (origin != null && !rules.lists(Rules.ORIGINS, origin)) {
            return forbidden("foreign_origin", "no page may manage this server but those in " + Rules.ORIGINS);
        }
        for (String host : request.headers().getAll(HttpHeaderNames.HOST)) {
            if (!isOurs(host.replaceFirst(":\\d*$", ""), channel)) {
                return forbidden("foreign_host", "this server is not called " + host + "; see " + Rules.HOSTS);
            }
        }
        if (!hasLooked) { // a connection keeps its owner
            refusal = rules.refusal(channel.localAddress(), channel.remoteAddress());
            hasLooked = true;
        }
        return refusal == null ? null : forbidden("not_owner", refusal);
    }

    /** Only names can be made to lead elsewhere: an address will do if it is loopback's or the one that was dialled. */
    private boolean isOurs(String host, Channel channel) {
        byte[] address = NetUtil.createByteArrayFromIpAddressString(host);
        if (address == null) {
            return rules.isOurs(host);
        }
        try {
            InetAddress named = InetAddress.getByAddress(address);
            boolean isDialled =
                    channel.localAddress() instanceof InetSocketAddress local && local.getAddress().equals(named);
            return isDialled || named.isLoopbackAddress();
        } catch (UnknownHostException e) {
            return false; // of neither 4 nor 16 bytes
        }
    }

    private static FullHttpResponse forbidden(String code, String message) {
        return Answer.error(HttpResponseStatus.FORBIDDEN, code, message);
    }
}
